"""What the graph of another training job must be, and what it must answer.

`sandbox` calls this where a hostile graph does no harm.
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
    graph_contract,
    inspect_graph,
    parse_graph,
    parts,
)
from platform_assets.export.runtime import answers_in, output_names, run_graph
from platform_assets.export.triton_config import TensorSpec
from serving_gateway.contract import Signature, feature_contract

_DOMAINS: Final = ("", "ai.onnx", ML)
_ENDLESS: Final = "Loop"
"""The one operator that runs as often as a number says; Scan ends with its tensors."""
_CHANCE: Final = (
    *("Bernoulli", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
)
"""What the first run of a graph with one of these took says nothing of the next run."""
_UNSERVED: Final = {
    "ZipMap": "whose maps Triton does not serve: convert with options={'zipmap': False}",
    "TreeEnsemble": f"which the serving image does not have yet: convert with {ML} 3",
}
"""Operators of `ML` that are valid, and yet no use."""


class InvalidGraph(Exception):
    """The graph cannot enter the chain; the message says why."""


class InferenceFailed(InvalidGraph):
    """ONNX Runtime failed on the graph, perhaps for want of memory."""


def run_and_validate(
    graph: bytes, signature: Signature, inputs: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Check a graph, run it on rows of `model_inputs`, return the answers that the signature names.

    Raises:
        InvalidGraph: it has other operators, another interface or other features, or answers
            in another form.
        ExportError: it is not a valid ONNX model.
    """
    _require_operators(graph)
    _require_interface(signature, inspect_graph(graph))
    _require_contract(signature, graph)
    try:
        outputs = run_graph(graph, inputs)
    except Exception as error:
        # ONNX Runtime's exceptions have no common root of their own.
        raise InferenceFailed(f"its graph cannot answer the evaluation rows: {error}") from error
    answers = {name: outputs[name] for name in output_names(signature)}
    _require_answers(signature, *answers_in(answers, signature), max(map(len, inputs.values())))
    return answers


def _require_operators(graph: bytes) -> None:
    """Refuse what may behave otherwise in the serving image, or never end.

    Before the checker: functions that call functions make a small file an endless graph.
    """
    import onnx

    model = parse_graph(graph)
    wrong = [f"the function {function.name}" for function in model.functions]
    for node in parts(model, onnx.NodeProto):
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
    """Refuse a graph that names no features, or others: its tensors alone cannot tell."""
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
    """Refuse answers of another form than the signature promises; no gate would look at it."""
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
