"""Functions of boosted trees that model files of tests name as candidates."""

from __future__ import annotations

from typing import Any

from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier


def linear_leaves() -> Any:
    return LGBMClassifier(linear_tree=True, n_estimators=5, verbosity=-1)


def light_forest() -> Any:
    return LGBMClassifier(
        boosting_type="rf", bagging_freq=1, bagging_fraction=0.5, n_estimators=5, verbosity=-1
    )


def missing_zeros() -> Any:
    return LGBMClassifier(zero_as_missing=True, n_estimators=5, verbosity=-1)


def cross_entropy() -> Any:
    return LGBMClassifier(objective="multiclassova", num_class=3, n_estimators=5, verbosity=-1)


def dropped_trees() -> Any:
    return XGBClassifier(booster="dart", rate_drop=0.5, n_estimators=5)


def moved_and_scaled() -> Any:
    return TransformedTargetRegressor(Ridge(), transformer=StandardScaler())


class Lightest(LGBMClassifier):
    """Adds nothing to its parent."""


def lightest() -> Any:
    return Lightest(n_estimators=5, verbosity=-1, min_child_samples=5)


def years() -> Any:
    return LGBMRegressor(n_estimators=50, verbosity=-1)
