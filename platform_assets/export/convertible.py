"""Exactly convertible substitutes of estimators that skl2onnx converts inexactly."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.export.inspection import ExportError


@dataclass(frozen=True, slots=True)
class Convertible:
    """An estimator to convert, and how the graph completes its answers, in double precision.

    The prediction of a regression is `exp(converted + offset)` with `exponential`, else
    `converted + offset`. `classes` are the labels of a classifier that only knows their positions.
    """

    estimator: Any
    offset: float = 0.0
    exponential: bool = False
    classes: NDArray[Any] | None = None


def convertible_substitute(estimator: Any) -> Convertible:
    """Return the exactly convertible substitute of a fitted estimator, which is not modified.

    skl2onnx fails on the plain 0.0 of a linear model without an intercept. It doubles the score
    of linear discriminant analysis of two classes. It rounds the thresholds of histogram boosting
    to the nearest single-precision number, which may lie above a value to the right of the
    threshold, and omits the exponential of its Poisson and gamma losses. Runtimes add up leaves
    in single precision: those of a regression come without the mean, which is added afterwards
    in double precision.

    Raises:
        ExportError: histogram boosting over categorical features, which skl2onnx converts wrongly.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import (
        ExtraTreesRegressor,
        GradientBoostingRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestRegressor,
    )
    from sklearn.tree import DecisionTreeRegressor

    match estimator := to_known_class(estimator):
        case LinearDiscriminantAnalysis():
            return Convertible(_as_logistic_regression(estimator))
        case HistGradientBoostingClassifier() | HistGradientBoostingRegressor():
            return _histogram(copy.deepcopy(estimator))
        case DecisionTreeRegressor() | RandomForestRegressor() | ExtraTreesRegressor():
            return _without_mean(copy.deepcopy(estimator))
        case GradientBoostingRegressor() if hasattr(estimator.init_, "constant_"):
            boosted = copy.deepcopy(estimator)
            offset = float(boosted.init_.constant_.item())
            boosted.init_.constant_ = boosted.init_.constant_ * 0
            return Convertible(boosted, offset)
        case _ if type(getattr(estimator, "intercept_", None)) is float:
            plain = copy.copy(estimator)
            plain.intercept_ = np.asarray(estimator.intercept_)
            return Convertible(plain)
        case _:
            return Convertible(estimator)


def to_known_class(estimator: Any) -> Any:
    """Return an estimator of an unknown class as the nearest base class that skl2onnx knows."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    kinds = (kind for kind in type(estimator).__mro__ if kind in sklearn_operator_name_map)
    kind = next(kinds, type(estimator))
    if kind is type(estimator):
        return estimator
    known = copy.copy(estimator)
    known.__class__ = kind
    return known


def _as_logistic_regression(estimator: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    same = LogisticRegression()
    for name in ("classes_", "coef_", "intercept_", "n_features_in_"):
        setattr(same, name, getattr(estimator, name))
    return same


def _histogram(estimator: Any) -> Convertible:
    from sklearn._loss.link import LogLink

    if estimator.is_categorical_ is not None:
        raise ExportError("histogram boosting over categorical features has no ONNX converter")
    for stage in estimator._predictors:
        for predictor in stage:
            predictor.nodes["num_threshold"] = round_down(predictor.nodes["num_threshold"])
    if hasattr(estimator, "classes_"):
        return Convertible(estimator)
    offset = float(estimator._baseline_prediction.item())
    estimator._baseline_prediction = estimator._baseline_prediction * 0
    return Convertible(estimator, offset, isinstance(estimator._loss.link, LogLink))


def round_down(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest single-precision numbers that are not above the thresholds."""
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


def _without_mean(estimator: Any) -> Convertible:
    trees = [member.tree_ for member in getattr(estimator, "estimators_", [estimator])]
    offset = sum(float(tree.value.mean()) for tree in trees) / len(trees)
    for tree in trees:
        tree.value[:] -= offset
    return Convertible(estimator, offset)
