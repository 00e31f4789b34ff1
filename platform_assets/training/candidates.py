"""The estimators that compete. All convert to ONNX with probabilities at float32 parity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final


def _logistic_regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))


def _linear_discriminant(seed: int) -> Any:  # noqa: ARG001 # has no chance in it
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis()


def _random_forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=60, max_depth=6, n_jobs=1, random_state=seed)


def _gradient_boosting(seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=40, max_depth=3, random_state=seed)


CANDIDATES: Final[dict[str, Callable[[int], Any]]] = {
    "logistic_regression": _logistic_regression,
    "linear_discriminant": _linear_discriminant,
    "random_forest": _random_forest,
    "gradient_boosting": _gradient_boosting,
}
"""Name -> function of a seed that returns an unfitted classifier.

Nearest neighbours are left out on purpose: equal distances are broken by rounding, so their
float32 answers in ONNX Runtime may differ from scikit-learn's.
"""


def parameters(estimator: Any) -> dict[str, str]:
    """Return the parameters that a person would look at: scalars, by their full name."""
    return {
        name: str(value)
        for name, value in estimator.get_params(deep=True).items()
        if isinstance(value, (bool, int, float, str))
    }
