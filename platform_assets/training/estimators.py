"""The estimators that a model file can name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from platform_assets.model_spec import Scalar, Task
from platform_assets.training import boosting
from platform_assets.training.preprocessing import Texts

_TREE: Final = frozenset(
    {
        *("ccp_alpha", "criterion", "max_depth", "max_features", "max_leaf_nodes"),
        *("min_impurity_decrease", "min_samples_leaf", "min_samples_split"),
        "min_weight_fraction_leaf",
    }
)
_FOREST: Final = _TREE | {"bootstrap", "max_samples", "n_estimators"}
_EARLY: Final = frozenset({"learning_rate", "loss", "n_iter_no_change", "tol"})
_BOOSTING: Final = _TREE | _EARLY | {"n_estimators", "subsample", "validation_fraction"}
_HISTOGRAM: Final = _EARLY | {
    *("early_stopping", "l2_regularization", "max_bins", "max_depth", "max_features", "max_iter"),
    *("max_leaf_nodes", "min_samples_leaf", "validation_fraction"),
}
_LINEAR: Final = frozenset({"fit_intercept", "max_iter", "solver", "tol"})


@dataclass(frozen=True, slots=True)
class NamedEstimator:
    """A named estimator: its factory's path, its defaults, the parameters that a grid may set."""

    path: str
    defaults: Mapping[str, Scalar]
    parameters: frozenset[str]
    takes_seed: bool = True
    needs_scaling: bool = False
    texts: Texts = Texts.PLACES
    packages: tuple[str, ...] = ()
    """Packages of the extra `boosting` that it needs."""
    threaded: bool = False
    """Whether it takes a number of threads that does not change its answers."""
    imputes: bool = True
    """Whether missing values are imputed, because the estimator cannot read them."""
    categorical: bool = False
    """Whether it takes the positions of columns with codes of texts."""


_FORESTS: Final[dict[str, Scalar]] = {"n_estimators": 60, "max_depth": 6, "n_jobs": 1}
# Rows held out at random for early stopping would share entities and times with the others.
_HISTOGRAMS: Final[dict[str, Scalar]] = {"early_stopping": False}
_BOOSTED: Final[dict[str, Scalar]] = {"n_estimators": 40, "max_depth": 3}


def _trees(
    kind: str, weights: set[str], losses: set[str], more: set[str]
) -> dict[str, NamedEstimator]:
    """Return the tree estimators of a kind (`Classifier` or `Regressor`) with its own parameters.

    `weights` are for all but gradient boosting, `losses` for that, `more` for histogram boosting.
    """
    at, columns = f"sklearn.ensemble:{{}}{kind}", Texts.SPARSE_COLUMNS
    forest, histogram = _FOREST | weights, _HISTOGRAM | weights | more
    return {
        "random_forest": NamedEstimator(at.format("RandomForest"), _FORESTS, forest, texts=columns),
        "extra_trees": NamedEstimator(at.format("ExtraTrees"), _FORESTS, forest, texts=columns),
        "gradient_boosting": NamedEstimator(
            at.format("GradientBoosting"), _BOOSTED, _BOOSTING | losses
        ),
        "hist_gradient_boosting": NamedEstimator(
            at.format("HistGradientBoosting"), _HISTOGRAMS, histogram
        ),
        "decision_tree": NamedEstimator(
            f"sklearn.tree:DecisionTree{kind}", {"max_depth": 6}, _TREE | weights | {"splitter"}
        ),
    }


def _boosting(
    kind: str, light: frozenset[str], extreme: frozenset[str]
) -> dict[str, NamedEstimator]:
    """Return the estimators of the boosting libraries for one kind of task."""
    at = f"{boosting.__name__}:{{}}_{kind}"
    own: dict[str, Any] = {"texts": Texts.CODES, "threaded": True, "imputes": False}
    return {
        "lightgbm": NamedEstimator(
            at.format("light"), {}, light,
            packages=("lightgbm", "onnxmltools"), categorical=True, **own,
        ),
        "xgboost": NamedEstimator(
            at.format("extreme"), {}, extreme,
            packages=("xgboost", "onnxmltools"), **own,
        ),
    }  # fmt: skip


CLASSIFIERS: Final[dict[str, NamedEstimator]] = {
    "logistic_regression": NamedEstimator(
        "sklearn.linear_model:LogisticRegression",
        {"max_iter": 1000},
        _LINEAR | {"C", "class_weight", "l1_ratio"},
        needs_scaling=True,
        texts=Texts.SPARSE_COLUMNS,
    ),
    "linear_discriminant": NamedEstimator(
        "sklearn.discriminant_analysis:LinearDiscriminantAnalysis",
        {},
        frozenset({"shrinkage", "solver", "tol"}),
        takes_seed=False,
        needs_scaling=True,
        texts=Texts.COLUMNS,
    ),
    **_trees("Classifier", weights={"class_weight"}, losses=set(), more=set()),
    **_boosting("classifier", boosting.LIGHTGBM | {"class_weight"}, boosting.XGBOOST),
}
REGRESSORS: Final[dict[str, NamedEstimator]] = {
    "linear_regression": NamedEstimator(
        "sklearn.linear_model:LinearRegression",
        {},
        frozenset({"fit_intercept", "positive"}),
        takes_seed=False,
        needs_scaling=True,
        texts=Texts.SPARSE_COLUMNS,
    ),
    "ridge": NamedEstimator(
        "sklearn.linear_model:Ridge",
        {},
        _LINEAR | {"alpha", "positive"},
        needs_scaling=True,
        texts=Texts.SPARSE_COLUMNS,
    ),
    **_trees("Regressor", weights=set(), losses={"alpha"}, more={"quantile"}),
    **_boosting("regressor", boosting.LIGHTGBM_REGRESSOR, boosting.XGBOOST_REGRESSOR),
}
"""Nearest neighbours are left out on purpose: rounding breaks ties of distance, so a runtime in
single precision may answer differently from scikit-learn."""


def named_estimators(task: Task) -> Mapping[str, NamedEstimator]:
    """Return the named estimators for a task."""
    return REGRESSORS if task is Task.REGRESSION else CLASSIFIERS
