"""LightGBM and XGBoost as the candidates `lightgbm` and `xgboost`, wrapped for scikit-learn.

Both handle missing values themselves. The same rows, seed and threads give the same trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

LIGHTGBM: Final = frozenset(
    {
        *("colsample_bytree", "learning_rate", "max_depth", "min_child_samples"),
        *("min_child_weight", "min_split_gain", "n_estimators", "num_leaves", "reg_alpha"),
        *("reg_lambda", "subsample", "subsample_for_bin", "subsample_freq"),
    }
)
XGBOOST: Final = frozenset(
    {
        *("colsample_bylevel", "colsample_bynode", "colsample_bytree", "gamma", "grow_policy"),
        *("learning_rate", "max_bin", "max_delta_step", "max_depth", "max_leaves"),
        *("min_child_weight", "n_estimators", "num_parallel_tree", "reg_alpha", "reg_lambda"),
        *("subsample",),
    }
)
"""Parameters that a grid may set, for classifiers and regressors alike."""
LIGHTGBM_REGRESSOR: Final = LIGHTGBM | {"alpha", "objective"}
XGBOOST_REGRESSOR: Final = XGBOOST | {"objective", "quantile_alpha"}
_SCALE_DEPENDENT: Final = frozenset(
    {
        *("gamma", "mape", "poisson", "tweedie", "count:poisson", "reg:gamma"),
        *("reg:squaredlogerror", "reg:tweedie"),
    }
)
"""Objectives that depend on how far labels are from zero."""
_SAME_EACH_TIME: Final = {"deterministic": True, "force_row_wise": True, "verbosity": -1}
_INNER: Final = "boosted"


def light_classifier(*, categories: Sequence[int] = (), **parameters: Any) -> Any:
    """Return a LightGBM classifier; `categories` are the columns with codes of texts."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(**_light(categories), **parameters)


def light_regressor(*, categories: Sequence[int] = (), **parameters: Any) -> Any:
    """Return a LightGBM regressor; `categories` are the columns with codes of texts."""
    from lightgbm import LGBMRegressor

    return _regressor(LGBMRegressor(**_light(categories), **parameters))


def _light(categories: Sequence[int]) -> dict[str, Any]:
    # By an alias of LightGBM's parameter: it warns about the main name.
    return {**_SAME_EACH_TIME, **({"cat_feature": list(categories)} if categories else {})}


def extreme_classifier(**parameters: Any) -> Any:
    """Return an XGBoost classifier for labels of any type.

    XGBoost itself needs labels 0, 1, ..., into which a voting classifier of one encodes them.
    """
    from sklearn.ensemble import VotingClassifier
    from xgboost import XGBClassifier

    return VotingClassifier([(_INNER, XGBClassifier(**parameters))], voting="soft")


def extreme_regressor(**parameters: Any) -> Any:
    """Return an XGBoost regressor."""
    from xgboost import XGBRegressor

    return _regressor(XGBRegressor(**parameters))


def _regressor(model: Any) -> Any:
    """Let a model learn the difference from the mean, where its objective allows that.

    Both libraries keep labels in single precision, which hardly distinguishes years or times.
    """
    import numpy as np
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    if model.get_params()["objective"] in _SCALE_DEPENDENT:
        return model
    # The mean is added to the prediction in double precision.
    double = FunctionTransformer(inverse_func=np.asarray, inv_kw_args={"dtype": "float64"})
    return TransformedTargetRegressor(
        model,
        transformer=make_pipeline(StandardScaler(with_std=False), double),
        check_inverse=False,
    )


def hide_decision_function(model: Any) -> Any:
    """Return a LightGBM model that only offers probabilities; any other model unchanged.

    Its raw scores, which calibration would otherwise read, have no converter.
    """
    from sklearn.ensemble import VotingClassifier

    if not type(model).__module__.startswith("lightgbm."):
        return model
    return VotingClassifier([(_INNER, model)], voting="soft")


def unwrap_learner(model: Any) -> Any:
    """Return the learner inside a wrapper of this module; any other estimator unchanged."""
    match type(model).__name__:
        case "TransformedTargetRegressor":
            return model.regressor
        case "VotingClassifier" if len(model.estimators) == 1:
            return model.estimators[0][1]
        case _:
            return model
