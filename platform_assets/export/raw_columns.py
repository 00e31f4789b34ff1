"""A user's pipeline, which reads each column itself, in a form that skl2onnx converts.

skl2onnx concatenates columns only if they have one type, as scikit-learn's concatenation yields:
all numbers become double precision here as soon as one of them is not single precision.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from platform_assets.export.inspection import ExportError, element_types
from platform_assets.export.step_names import ADDED_STEP, NamedStep
from serving_gateway.contract import DType, Feature, Signature

_SINGLE_PRECISION: Final = (
    *("sklearn.tree.", "sklearn.ensemble._forest", "sklearn.ensemble._gb"),
    *("sklearn.ensemble._hist_gradient_boosting", "lightgbm.", "xgboost."),
)
"""Modules of estimators that read single precision, or are converted that way."""


@dataclass(frozen=True, slots=True)
class RawColumn:
    """An input of the graph made by skl2onnx: a feature, perhaps with another type."""

    name: str
    feature: Feature
    dtype: DType


def select_raw_columns(
    named: Sequence[NamedStep], signature: Signature
) -> tuple[list[NamedStep], tuple[RawColumn, ...]]:
    """Return convertible steps of a fitted pipeline over a frame of the signature's features.

    The first step selects among the columns, which are returned as well, by name. The fitted
    steps are not modified.

    Raises:
        ExportError: one step reads both text and number columns.
    """
    (path, first), *others = named
    features = {feature.name: feature for feature in signature.features}
    branches = _branches(first, list(features))
    if branches is None:
        path, first, others = "columns", _passthrough(signature), list(named)
        branches = [("all", first.transformers_[0][1], list(features))]
    numbers = {
        features[name].tensor_dtype
        for _, _, names in branches
        for name in names
        if features[name].dtype is not DType.BYTES
    }
    double = numbers - {DType.FP32} != set()
    columns: dict[str, RawColumn] = {}
    chosen = []
    for name, step, names in branches:
        wanted = [_column(features[column], double=double) for column in names]
        if len({column.dtype is DType.BYTES for column in wanted}) > 1:
            raise ExportError(
                f"step {name!r} reads texts and numbers together: give each a step of its own in a "
                "ColumnTransformer"
            )
        columns |= {column.name: column for column in wanted}
        chosen.append((name, _with_cast(step, double=double), [column.name for column in wanted]))
    selector = copy.copy(first)
    selector.transformers_ = chosen
    if double and type(others[-1][1]).__module__.startswith(_SINGLE_PRECISION):
        others.insert(-1, ("single precision", _cast("float32")))
    return [(path, selector), *others], tuple(columns.values())


def _branches(first: Any, names: list[str]) -> list[tuple[str, Any, list[str]]] | None:
    """Return the steps of a fitted column transformer with their columns; None for other steps."""
    from sklearn.compose import ColumnTransformer

    if not isinstance(first, ColumnTransformer):
        return None
    places = first._transformer_to_input_indices
    return [
        (name, step, [names[place] for place in places[name]])
        for name, step, _ in first.transformers_
        if not (isinstance(step, str) and step == "drop") and len(places[name])
    ]


def _passthrough(signature: Signature) -> Any:
    """Return a fitted column transformer that passes all columns through."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer

    names = [feature.name for feature in signature.features]
    row = pd.DataFrame([[0.0] * len(names)], columns=names)
    return ColumnTransformer([("all", "passthrough", names)]).fit(row)


def _column(feature: Feature, *, double: bool) -> RawColumn:
    plain = feature.dtype is DType.BYTES or not double
    return RawColumn(
        f"column.{feature.name}", feature, feature.tensor_dtype if plain else DType.FP64
    )


def _with_cast(step: Any, *, double: bool) -> Any:
    """Return the step, followed by a cast to double precision if the others have it."""
    from sklearn.pipeline import Pipeline

    return Pipeline([("step", step), (ADDED_STEP, _cast("float64"))]) if double else step


def _cast(dtype: str) -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(np.asarray, kw_args={"dtype": dtype})


def connect_inputs(graph: Any, columns: Sequence[RawColumn], signature: Signature) -> Any:
    """Connect a graph whose inputs are `columns`, in this order, to the signature's inputs."""
    from onnx import helper, numpy_helper

    nodes, constants = [], []
    types = element_types()
    inner = [value.name for value in graph.input]
    for place, feature in enumerate(signature.features):
        source = feature.name
        used = [(n, c) for n, c in zip(inner, columns, strict=True) if c.feature is feature]
        if signature.packed_input is not None and used:
            source, index = f"{feature.name}.column", f"{feature.name}.place"
            constants.append(numpy_helper.from_array(np.array([place]), index))
            packed = [signature.packed_input, index]
            nodes.append(helper.make_node("Gather", packed, [source], axis=1))
        nodes += [
            helper.make_node("Cast", [source], [name], to=types[kind.dtype]) for name, kind in used
        ]
    return helper.make_graph(
        [*nodes, *graph.node],
        graph.name,
        _inputs(signature),
        graph.output,
        [*graph.initializer, *constants],
    )


def _inputs(signature: Signature) -> list[Any]:
    from onnx import helper

    features, packed, types = signature.features, signature.packed_input, element_types()
    specs = [(feature.name, feature.tensor_dtype, 1) for feature in features]
    if packed is not None:
        specs = [(packed, features[0].tensor_dtype, len(features))]
    return [
        helper.make_tensor_value_info(name, types[dtype], [None, width])
        for name, dtype, width in specs
    ]
