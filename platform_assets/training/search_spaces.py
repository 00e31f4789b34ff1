"""The platform's own search ranges of parameters, by estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from platform_assets.model_spec import CandidateSpec, Range

Space = Mapping[str, Range]

_FOREST: Final = {
    "max_depth": Range(3, 20, log=True),
    "max_features": Range(0.2, 1.0),
    "min_samples_leaf": Range(1, 30, log=True),
    "n_estimators": Range(50, 300, log=True),
}
_RATE: Final = Range(0.01, 0.3, log=True)
_SPACES: Final[dict[str, Space]] = {
    "logistic_regression": {"C": Range(1e-3, 1e2, log=True)},
    "ridge": {"alpha": Range(1e-3, 1e3, log=True)},
    "random_forest": _FOREST,
    "extra_trees": _FOREST,
    "decision_tree": {
        "max_depth": Range(2, 20, log=True),
        "min_samples_leaf": Range(1, 100, log=True),
    },
    "gradient_boosting": {
        "learning_rate": _RATE,
        "max_depth": Range(2, 6),
        "min_samples_leaf": Range(1, 50, log=True),
        "n_estimators": Range(40, 300, log=True),
        "subsample": Range(0.5, 1.0),
    },
    "hist_gradient_boosting": {
        "l2_regularization": Range(1e-6, 10.0, log=True),
        "learning_rate": _RATE,
        "max_iter": Range(50, 500, log=True),
        "max_leaf_nodes": Range(7, 127, log=True),
        "min_samples_leaf": Range(5, 100, log=True),
    },
    "lightgbm": {
        "colsample_bytree": Range(0.5, 1.0),
        "learning_rate": _RATE,
        "min_child_samples": Range(5, 100, log=True),
        "n_estimators": Range(50, 500, log=True),
        "num_leaves": Range(7, 127, log=True),
        "reg_lambda": Range(1e-3, 10.0, log=True),
    },
    "xgboost": {
        "colsample_bytree": Range(0.5, 1.0),
        "learning_rate": _RATE,
        "max_depth": Range(2, 10),
        "min_child_weight": Range(1.0, 20.0, log=True),
        "n_estimators": Range(50, 500, log=True),
        "reg_lambda": Range(1e-3, 10.0, log=True),
        "subsample": Range(0.5, 1.0),
    },
}


def space_of(candidate: CandidateSpec) -> Space:
    """Return the ranges of a candidate, empty if there is nothing to search for.

    A grid lists the values to try, so it leaves nothing to search for.
    """
    own = (
        {}
        if candidate.grid or candidate.estimator is None
        else _SPACES.get(candidate.estimator, {})
    )
    return {**own, **candidate.ranges}
