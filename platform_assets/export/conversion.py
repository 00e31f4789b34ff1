"""Fitted pipeline -> ONNX bytes; the same pipeline gives the same bytes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from platform_assets.export.graph.answers import Scores, add_outputs
from platform_assets.export.graph.builder import (
    MAX_IR_VERSION,
    ML,
    ML_OPSET,
    OPSET,
    ExportError,
    Graph,
    Value,
    element_type,
)
from platform_assets.export.graph.converted import converted_scores
from platform_assets.export.graph.ensembles import (
    averaging_scores,
    boosting_scores,
    is_averaging,
    is_boosting,
)
from platform_assets.export.graph.front import preprocessed
from platform_assets.export.graph.linear import is_linear, linear_scores
from serving_gateway.contract import Signature, feature_contract

CONTRACT_KEY: Final = "serving.feature_contract"
"""Metadata of a graph: the digest of what it reads."""
FEATURES_KEY: Final = "serving.features"
"""Metadata of a graph: names, types and nullability of its features, as JSON."""


def export(estimator: Any, signature: Signature, graph_name: str) -> bytes:
    """Express a fitted estimator in ONNX.

    Args:
        estimator: a pipeline of `training.preprocessing`; or, for a packed signature, any
            estimator over the float32 matrix of the features.
        signature: the inputs and outputs of the graph: a tensor [rows, 1] per feature of its
            tensor type, or the packed one; `label` and `probabilities`, or `prediction`.
        graph_name: name inside the file.

    Raises:
        ExportError: a part of the estimator has no counterpart in ONNX, or the signature
            promises what the estimator does not answer.
    """
    from onnx import helper

    _check_names(signature)
    graph = Graph()
    matrix, model = _front(graph, estimator, signature)
    outputs = add_outputs(graph, _scores(graph, model, matrix), model, signature)
    proto = helper.make_model(
        helper.make_graph(graph.nodes, graph_name, _inputs(signature), outputs, graph.constants),
        producer_name="serving-platform",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)],
    )
    proto.ir_version = MAX_IR_VERSION
    helper.set_model_props(
        proto,
        {
            CONTRACT_KEY: feature_contract(signature.features),
            FEATURES_KEY: msgspec.json.encode(signature.features).decode(),
        },
    )
    return _bytes(proto)


def _front(graph: Graph, estimator: Any, signature: Signature) -> tuple[Value, Any]:
    steps = getattr(estimator, "named_steps", {})
    if "columns" in steps and "model" in steps:
        return preprocessed(graph, steps["columns"], signature), steps["model"]
    if signature.packed_input is None:
        raise ExportError(
            f"{type(estimator).__name__} reads a matrix, but the features have a tensor each"
        )
    return Value(signature.packed_input, signature.features[0].tensor_dtype), estimator


def _scores(graph: Graph, model: Any, matrix: Value) -> Scores:
    if is_averaging(model):
        return averaging_scores(graph, model, matrix)
    if is_boosting(model):
        return boosting_scores(graph, model, matrix)
    if is_linear(model):
        return linear_scores(graph, model, matrix)
    return converted_scores(graph, model, matrix)


def _check_names(signature: Signature) -> None:
    outputs = {signature.label_output, signature.probabilities_output}
    taken = [one.name for one in signature.features if one.name in outputs]
    if taken and signature.packed_input is None:
        raise ExportError(
            f"a feature is called {taken[0]}, as an output of every model is: rename the feature"
        )


def _inputs(signature: Signature) -> list[Any]:
    from onnx import helper

    if signature.packed_input is not None:
        dtype = element_type(signature.features[0].tensor_dtype)
        shape = [None, len(signature.features)]
        return [helper.make_tensor_value_info(signature.packed_input, dtype, shape)]
    return [
        helper.make_tensor_value_info(one.name, element_type(one.tensor_dtype), [None, 1])
        for one in signature.features
    ]


def _bytes(proto: Any) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise ExportError(
            f"the graph has more than the 2 GB that an ONNX file can hold ({error}): lower the "
            "depth or the number of trees"
        ) from error
