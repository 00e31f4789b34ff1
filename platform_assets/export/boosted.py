"""Exactly convertible substitutes of LightGBM and XGBoost models for onnxmltools."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.export.convertible import (
    Convertible,
    convertible_substitute,
    round_down,
    to_known_class,
)
from platform_assets.export.inspection import ExportError

_CLASSES: Final = frozenset({"binary", "multiclass"})
_PLAIN: Final = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})
_LOGARITHMIC: Final = frozenset({"poisson", "gamma", "tweedie"})
"""LightGBM's objectives, by the function they apply to the sum of the leaves."""
_NUMBERS: Final = re.compile(r"^(threshold|leaf_value)=(.+)$", re.MULTILINE)
_TINY: Final = 1e-30
_ZERO_IS_MISSING: Final = 4
"""Bit of LightGBM's `decision_type`."""

Change = Callable[[NDArray[np.float64]], NDArray[np.floating[Any]]]


def boosted_substitute(estimator: Any) -> Convertible | None:
    """Return the exactly convertible substitute of a fitted estimator; None for other kinds.

    - LightGBM: onnxmltools rounds thresholds to the nearest single-precision number, which may
      lie above a value to the right of the threshold. Runtimes add up leaves in single precision,
      so those of a regression are passed without their mean.
    - The wrappers of `training.boosting`: a target centred on its mean, and labels that XGBoost
      knows by position.

    Raises:
        ExportError: onnxmltools converts this variant wrongly.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.ensemble import VotingClassifier

    match estimator := to_known_class(estimator):
        case _ if _is_of("lightgbm", "LGBMModel", estimator):
            return _convert_lightgbm(estimator)
        case _ if _is_of("xgboost", "XGBModel", estimator):
            # onnxmltools ignores the weights of dropped trees.
            if (kind := estimator.booster or "gbtree") != "gbtree":
                raise ExportError(f"XGBoost with booster={kind} has no exact ONNX converter")
            return Convertible(_with_first_tree(estimator))
        case TransformedTargetRegressor():
            return _convert_centred_target(estimator)
        case VotingClassifier(estimators_=[only], voting="soft") if model := boosted_substitute(
            only
        ):
            return replace(model, classes=estimator.classes_)
        case _:
            return None


def _is_of(library: str, name: str, estimator: Any) -> bool:
    # Only an imported library can have made the estimator.
    return library in sys.modules and isinstance(estimator, getattr(sys.modules[library], name))


def _with_first_tree(estimator: Any) -> Any:
    """Return an XGBoost model whose first tree is not a lone leaf of 0.

    onnxmltools would take the base score of two classes for a margin instead of a probability. The
    leaf becomes a number that no sum in single precision shows.
    """
    from xgboost import Booster

    booster = estimator.get_booster()
    [first, *_] = booster.get_dump(dump_format="json")
    if json.loads(first).get("leaf") != 0:
        return estimator
    model = json.loads(booster.save_raw("json"))
    model["learner"]["gradient_booster"]["model"]["trees"][0]["split_conditions"][0] = _TINY
    same = copy.copy(estimator)
    same._Booster = Booster(model_file=bytearray(json.dumps(model).encode()))
    return same


def _convert_centred_target(estimator: Any) -> Convertible:
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    match estimator.transformer_:
        case Pipeline(
            steps=[
                (_, StandardScaler(with_std=False) as mean),
                (_, FunctionTransformer(func=None, inverse_func=np.asarray)),
            ]
        ):
            inner = boosted_substitute(estimator.regressor_) or convertible_substitute(
                estimator.regressor_
            )
        case _:
            raise ExportError("TransformedTargetRegressor has no ONNX converter")
    if inner.exponential:
        raise ExportError("a centred target and an objective with a logarithm do not go together")
    return replace(inner, offset=inner.offset + float(mean.mean_[0]))


def _convert_lightgbm(estimator: Any) -> Convertible:
    from lightgbm import Booster

    text = estimator.booster_.model_to_string()
    header, _, trees = text.partition("\nTree=")
    objective = _objective(header, classes=hasattr(estimator, "classes_"))
    _require_plain_trees(header, trees)
    means: list[float] = []

    def centred(leaves: NDArray[np.float64]) -> NDArray[np.float64]:
        means.append(float(leaves.mean()))
        return leaves - means[-1]

    same = copy.copy(estimator)
    if objective in _CLASSES:
        same._Booster = Booster(model_str=_rewrite_model_text(text, lambda leaves: leaves))
        return Convertible(same)
    # Whatever follows the sum is computed afterwards, in double precision.
    plain = re.sub(r"^objective=.*$", "objective=regression", text, count=1, flags=re.MULTILINE)
    same._Booster = Booster(model_str=_rewrite_model_text(plain, centred))
    return Convertible(same, sum(means), objective in _LOGARITHMIC)


def _objective(header: str, *, classes: bool) -> str:
    match = re.search(r"^objective=(.*)$", header, re.MULTILINE)
    objective, *more = match[1].split() if match else ["of its own"]
    known = _CLASSES if classes else _PLAIN | _LOGARITHMIC
    if objective not in known or "sqrt" in more:
        raise ExportError(f"LightGBM with the objective {objective} has no exact ONNX converter")
    return objective


def _require_plain_trees(header: str, trees: str) -> None:
    kinds = re.findall(r"^decision_type=(.+)$", trees, re.MULTILINE)
    zero = any(int(kind) & _ZERO_IS_MISSING for line in kinds for kind in line.split())
    variants = {
        "linear_tree": "is_linear=1" in trees,
        "boosting_type=rf": "\naverage_output" in header,
        "zero_as_missing": zero,
    }
    for name, present in variants.items():
        if present:
            raise ExportError(f"LightGBM with {name} has no exact ONNX converter")


def _rewrite_model_text(text: str, leaves: Change) -> str:
    """Return a model's text with thresholds in single precision and changed leaves."""
    changes: dict[str, Change] = {"threshold": round_down, "leaf_value": leaves}

    def rewrite_line(match: re.Match[str]) -> str:
        values = changes[match[1]](np.array(match[2].split(), dtype=np.float64))
        return f"{match[1]}={' '.join(map(repr, values.astype(np.float64).tolist()))}"

    # Without the sizes of the trees, LightGBM finds where each one starts.
    sizeless = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)
    return _NUMBERS.sub(rewrite_line, sizeless)
