"""Functions that model files of tests name as candidates."""

from __future__ import annotations

import os
from typing import Any

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier


class Homemade(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Learns nothing, and nobody wrote a converter for it."""

    def fit(self, rows: Any, labels: Any) -> Homemade:
        import numpy as np

        self.classes_ = np.unique(labels)
        self.n_features_in_ = rows.shape[1]
        return self

    def predict_proba(self, rows: Any) -> Any:
        import numpy as np

        return np.full((len(rows), len(self.classes_)), 1 / len(self.classes_))

    def predict(self, rows: Any) -> Any:
        import numpy as np

        return np.full(len(rows), self.classes_[0])


class Fussy(DecisionTreeClassifier):  # type: ignore[misc] # scikit-learn is untyped
    """Converts like its parent, and refuses to learn from more than 200 rows."""

    def fit(self, rows: Any, labels: Any) -> Any:
        if len(rows) > 200:
            raise ValueError("too many rows for me")
        return super().fit(rows, labels)


class Curious(HistGradientBoostingClassifier):  # type: ignore[misc] # scikit-learn is untyped
    """Adds nothing to its parent."""


class Telling(DecisionTreeClassifier):  # type: ignore[misc] # scikit-learn is untyped
    """Says in its error what the environment holds, at length."""

    def fit(self, rows: Any, labels: Any) -> Any:
        raise RuntimeError(f"no answer of https://me:{os.environ['MY_TOKEN']}@store " + "x" * 9000)


class Undecided(DecisionTreeClassifier):  # type: ignore[misc] # scikit-learn is untyped
    """Answers as `how` says once it has learned."""

    def __init__(self, how: str = "", random_state: int | None = None) -> None:
        super().__init__(random_state=random_state)
        self.how = how

    def predict(self, rows: Any, check_input: bool = True) -> Any:
        found = super().predict(rows, check_input)
        if self.how == "classes":
            self.classes_: Any = ["other", "another"]
        return found

    def predict_proba(self, rows: Any, check_input: bool = True) -> Any:
        found = super().predict_proba(rows, check_input)
        return found[:, :1] if self.how == "shape" else found * float("nan")


class Unreadable(dict[str, Any]):
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not for you")


def telling() -> Any:
    return Telling()


def undecided() -> Any:
    return Undecided()


def leaving() -> Any:
    raise SystemExit(3)


def unreadable() -> Any:
    return Unreadable()


def many() -> Any:
    return ["nothing to learn"] * 100_000


def curious() -> Any:
    return Curious(max_iter=5)


def categorical() -> Any:
    return HistGradientBoostingClassifier(max_iter=5, categorical_features=[0])


def homemade() -> Any:
    return Homemade()


def fussy() -> Any:
    return Fussy(max_depth=2)


def scaled() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression())


def discriminant() -> Any:
    return make_pipeline(StandardScaler(), LinearDiscriminantAnalysis())


def bagged() -> Any:
    return BaggingClassifier(DecisionTreeClassifier(max_depth=4), n_estimators=5)


def boosted() -> Any:
    return AdaBoostClassifier(n_estimators=5)


def without_probabilities() -> Any:
    return LinearSVC()


def a_class() -> Any:
    return LogisticRegression


def failing() -> Any:
    raise RuntimeError("no such thing")


NUMBER = 7


def tuned() -> Any:
    return TunedThresholdClassifierCV(LogisticRegression(max_iter=1000))


def isotonic() -> Any:
    forest = RandomForestClassifier(10, max_depth=4, random_state=0)
    return CalibratedClassifierCV(forest, method="isotonic", cv=3)
