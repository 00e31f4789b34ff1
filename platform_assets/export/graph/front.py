"""The preprocessing as nodes: what the fitted `ColumnTransformer` does, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from platform_assets.export.graph.builder import ML, ExportError, Graph, Value
from serving_gateway.contract import DType, Signature


def preprocessed(graph: Graph, columns: Any, signature: Signature) -> Value:
    """Add the nodes of a fitted `ColumnTransformer` of `training.preprocessing`.

    Returns:
        The matrix that the model behind it reads, [rows, width]: FP32, or FP64 where a step
        of the preprocessing makes it so.

    Raises:
        ExportError: a step is not one of `training.preprocessing`.
    """
    types = {feature.name: feature.tensor_dtype for feature in signature.features}
    parts = [
        _steps(graph, transformer, list(names), signature, types)
        for name, transformer, names in columns.transformers_
        if name != "remainder"
    ]
    widest = DType.FP64 if any(part.dtype is DType.FP64 for part in parts) else DType.FP32
    return _side_by_side(graph, [graph.cast(part, widest) for part in parts])


def _steps(
    graph: Graph,
    transformer: Any,
    names: Sequence[str],
    signature: Signature,
    types: Mapping[str, DType],
) -> Value:
    first, *others = (step for _, step in transformer.steps)
    if type(first).__name__ == "OneHotEncoder":
        value = _one_hot(graph, first, names)
    elif type(first).__name__ == "OrdinalEncoder":
        value = _places(graph, first, names)
    else:
        value = _step(graph, first, _numbers(graph, names, signature, types))
    for step in others:
        value = _step(graph, step, value)
    return value


def _numbers(
    graph: Graph, names: Sequence[str], signature: Signature, types: Mapping[str, DType]
) -> Value:
    import numpy as np

    if signature.packed_input is None:
        return _side_by_side(graph, [Value(name, types[name]) for name in names])
    order = [feature.name for feature in signature.features]
    packed = Value(signature.packed_input, signature.features[0].tensor_dtype)
    if list(names) == order:
        return packed
    wanted = graph.constant(np.array([order.index(name) for name in names], dtype=np.int64))
    return Value(graph.add("Gather", packed.name, wanted, axis=1), packed.dtype)


def _side_by_side(graph: Graph, parts: Sequence[Value]) -> Value:
    if len(parts) == 1:
        return parts[0]
    return Value(graph.add("Concat", *(part.name for part in parts), axis=1), parts[0].dtype)


def _step(graph: Graph, step: Any, value: Value) -> Value:
    kind = type(step).__name__
    if kind == "FunctionTransformer":
        return _function(graph, step, value)
    if kind == "SimpleImputer":
        missing = graph.add("IsNaN", value.name)
        known = _constant(graph, step.statistics_, value.dtype)
        return Value(graph.add("Where", missing, known, value.name), value.dtype)
    if kind == "StandardScaler":
        centred = graph.add("Sub", value.name, _constant(graph, step.mean_, value.dtype))
        scaled = graph.add("Div", centred, _constant(graph, step.scale_, value.dtype))
        return Value(scaled, value.dtype)
    raise ExportError(f"{kind} is no step of the preprocessing that this platform exports")


def _function(graph: Graph, step: Any, value: Value) -> Value:
    import numpy as np
    from scipy.sparse import csc_array

    arguments = step.kw_args or {}
    if step.func is csc_array:  # how scikit-learn stores the matrix, and no change of a value
        return value
    if step.func is np.asarray:
        wanted = {"float32": DType.FP32, "float64": DType.FP64}[arguments["dtype"]]
        return graph.cast(value, wanted)
    if step.func is np.clip:
        # Comparisons, and not ONNX's Clip: a NaN has to stay one, and runtimes differ there.
        name = value.name
        for operator, bound in (("Less", arguments["a_min"]), ("Greater", arguments["a_max"])):
            limit = _constant(graph, bound, value.dtype)
            name = graph.add("Where", graph.add(operator, name, limit), limit, name)
        return Value(name, value.dtype)
    raise ExportError(f"the function {step.func!r} is no step of the preprocessing")


def _constant(graph: Graph, values: Any, dtype: DType) -> str:
    import numpy as np

    return graph.constant(np.asarray(values, np.float64 if dtype is DType.FP64 else np.float32))


def _one_hot(graph: Graph, encoder: Any, names: Sequence[str]) -> Value:
    import numpy as np

    parts = []
    for name, categories in zip(names, encoder.categories_, strict=True):
        cells = graph.add(
            "OneHotEncoder",
            name,
            domain=ML,
            cats_strings=[str(one).encode() for one in categories],
            zeros=1,
        )
        shape = graph.constant(np.array([-1, len(categories)], dtype=np.int64))
        parts.append(Value(graph.add("Reshape", cells, shape), DType.FP32))
    return _side_by_side(graph, parts)


def _places(graph: Graph, encoder: Any, names: Sequence[str]) -> Value:
    parts = []
    for name, categories in zip(names, encoder.categories_, strict=True):
        places = graph.add(
            "LabelEncoder",
            name,
            domain=ML,
            keys_strings=[str(one).encode() for one in categories],
            values_floats=[float(place) for place in range(len(categories))],
            default_float=float(encoder.unknown_value),
        )
        parts.append(Value(places, DType.FP32))
    return _side_by_side(graph, parts)
