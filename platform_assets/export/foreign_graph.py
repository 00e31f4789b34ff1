"""The requirements for another training job's graph, and for its answers.

`sandbox` calls this where a hostile graph can do no harm.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from platform_assets.export.inspection import (
    CONTRACT_KEY,
    FEATURES_KEY,
    ML,
    ExportError,
    GraphSummary,
    find_messages,
    graph_contract,
    inspect_graph,
    parse_graph,
)
from platform_assets.export.runtime import answers_in, output_names, run_graph
from platform_assets.export.triton_config import TensorSpec
from serving_gateway.contract import Signature, feature_contract

_DOMAINS: Final = ("", "ai.onnx", ML)
_ENDLESS: Final = "Loop"
"""The only operator whose iterations are set by a number; Scan ends with its tensors."""
_CHANCE: Final = (
    *("Bernoulli", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
)
"""With one of these, the cost of a graph's first run says nothing about the next run."""
_UNSERVED: Final = {
    "ZipMap": "whose maps Triton does not serve: convert with options={'zipmap': False}",
    "TreeEnsemble": f"which the serving image does not have yet: convert with {ML} 3",
}
"""Operators of `ML` that are valid but cannot be served."""


class InvalidGraph(Exception):
    """The graph cannot be adopted; the message says why."""


class InferenceFailed(InvalidGraph):
    """ONNX Runtime failed on the graph, perhaps for lack of memory."""


def run_and_validate(
    graph: bytes, signature: Signature, inputs: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Check a graph, run it on rows of `model_inputs`, and return the signature's outputs.

    Raises:
        InvalidGraph: its operators are not allowed, or its interface, features or answers do not
            match the signature.
        ExportError: it is not a valid ONNX model.
    """
    _require_operators(graph)
    _require_interface(signature, inspect_graph(graph))
    _require_contract(signature, graph)
    try:
        outputs = run_graph(graph, inputs)
    except Exception as error:
        # ONNX Runtime's exceptions have no common base class of their own.
        raise InferenceFailed(f"its graph cannot answer the evaluation rows: {error}") from error
    answers = {name: outputs[name] for name in output_names(signature)}
    _require_answers(signature, *answers_in(answers, signature), max(map(len, inputs.values())))
    return answers


def _require_operators(graph: bytes) -> None:
    """Refuse operators that may behave differently in the serving image, or never end.

    Call it before the checker: functions that call functions make a small file an endless graph.
    """
    import onnx

    model = parse_graph(graph)
    wrong = [f"the function {function.name}" for function in model.functions]
    for node in find_messages(model, onnx.NodeProto):
        if node.domain not in _DOMAINS:
            wrong.append(f"the operator {node.domain}.{node.op_type}")
        elif node.domain == ML and node.op_type in _UNSERVED:
            wrong.append(f"the operator {node.op_type}, {_UNSERVED[node.op_type]}")
        elif node.op_type == _ENDLESS:
            wrong.append(f"the operator {_ENDLESS}, which may run for ever")
        elif node.op_type in _CHANCE:
            wrong.append(f"the operator {node.op_type}, which is chance")
    if wrong:
        raise InvalidGraph(
            f"its graph has {', '.join(sorted(set(wrong))[:5])}: export it with the operators of "
            f"ONNX and {ML} alone, without {_ENDLESS} (onnx.inliner writes functions out)"
        )


def _require_interface(signature: Signature, graph: GraphSummary) -> None:
    wrong = _input_differences(signature, graph.inputs)
    missing = set(output_names(signature)) - {tensor.name for tensor in graph.outputs}
    wrong += [f"output {name} is missing" for name in sorted(missing)]
    if wrong:
        raise InvalidGraph(
            "its graph does not have the inputs and outputs of the model file: " + "; ".join(wrong)
        )


def _require_contract(signature: Signature, graph: bytes) -> None:
    """Refuse a graph that names no or other features: its tensors alone do not identify them."""
    contract = feature_contract(signature.features)
    try:
        if graph_contract(graph) == contract:
            return
        reason = "its metadata names other features, or in another order"
    except ExportError as error:
        reason = str(error)
    features = msgspec.json.encode(signature.features).decode()
    raise InvalidGraph(
        f"{reason}. The exporting job must write into its metadata, by onnx.helper."
        f"set_model_props, what the columns of its rows are: {FEATURES_KEY!r}: {features!r}, "
        f"{CONTRACT_KEY!r}: {contract!r}"
    )


def _input_differences(signature: Signature, declared: tuple[TensorSpec, ...]) -> list[str]:
    features = signature.features
    expected = {f.name: TensorSpec(f.name, f.tensor_dtype, (None, 1)) for f in features}
    if (name := signature.packed_input) is not None:
        expected = {name: TensorSpec(name, features[0].tensor_dtype, (None, len(features)))}
    there = {tensor.name: tensor for tensor in declared}
    wrong = [f"input {name} is missing" for name in expected if name not in there]
    wrong += [f"input {name} is unknown" for name in there if name not in expected]
    return wrong + [
        f"input {name} is {there[name].dtype.value} {there[name].shape}, not "
        f"{tensor.dtype.value} {tensor.shape}"
        for name, tensor in expected.items()
        if name in there and there[name] != tensor
    ]


def _require_answers(
    signature: Signature,
    labels: np.ndarray[Any, Any],
    probabilities: np.ndarray[Any, Any] | None,
    rows: int,
) -> None:
    """Refuse answers whose form differs from the signature's: no gate checks the form."""
    classes = signature.classes
    text = bool(classes) and isinstance(classes[0], str)
    kinds, wanted = ("OU", "text") if text else ("i", "INT64") if classes else ("f", "FP64 or FP32")
    wrong = []
    if labels.dtype.kind not in kinds or len(labels) != rows:
        wrong.append(
            f"{signature.label_output} is {labels.dtype}, {len(labels)} values for {rows} rows, "
            f"not one {wanted} for each"
        )
    elif classes and (other := sorted(set(labels.tolist()) - set(classes))):
        wrong.append(
            f"{signature.label_output} says {other[0]!r}, which is none of "
            f"{', '.join(map(repr, classes))}"
        )
    if probabilities is not None and (
        probabilities.dtype.kind != "f" or probabilities.shape != (rows, len(classes))
    ):
        wrong.append(
            f"{signature.probabilities_output} is {probabilities.dtype} of shape "
            f"{list(probabilities.shape)}, not a number for each of {len(classes)} classes"
        )
    if wrong:
        raise InvalidGraph("its answers differ from its declared outputs: " + "; ".join(wrong))
