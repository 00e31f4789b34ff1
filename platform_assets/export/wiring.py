"""Give an exported graph the signature's inputs and outputs: names, types and order."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.export.convertible import Convertible
from platform_assets.export.decision import Decision, DecisionNodes
from platform_assets.export.inspection import ExportError
from serving_gateway.contract import Signature

_PREFIX: Final = "converted."
"""Prefix of names inside the graph, which no feature and no output has."""


def with_signature(
    converted: Any, model: Convertible, signature: Signature, decision: Decision
) -> Any:
    """Give the graph that skl2onnx made of `model.estimator` the signature's inputs and outputs.

    Its classes and probabilities are those of `decision`.

    Raises:
        ExportError: the signature's classes differ from those that the estimator has learned.
    """
    from onnx import compose, helper

    inner = compose.add_prefix_graph(converted, _PREFIX)
    answers = [output.name for output in inner.output]
    names = [feature.name for feature in signature.features]
    if signature.packed_input is not None:
        names = [signature.packed_input]
    front = []
    for name, declared in zip(names, inner.input, strict=True):
        front.append(helper.make_node("Identity", [name], [declared.name]))
        declared.name = name
    if (probabilities := signature.probabilities_output) is None:
        back, constants, outputs = _prediction(answers[0], model, signature.label_output)
    else:
        learned = model.estimator.classes_ if model.classes is None else model.classes
        order = _order(learned, signature)
        decision_nodes = DecisionNodes()
        if not decision.is_plain:
            known = _python_labels(learned)
            stated = decision_nodes.probabilities(answers[1], decision, len(known))
            answers = [decision_nodes.label(stated, decision, known), stated]
        back, constants, outputs = _classes(answers, order, signature, probabilities)
        back, constants = [*decision_nodes.nodes, *back], [*decision_nodes.constants, *constants]
        if model.classes is not None and decision.is_plain:
            back[0:1], more = _label(answers[0], model.classes, signature)
            constants += more
    return helper.make_graph(
        [*front, *inner.node, *back],
        inner.name,
        inner.input,
        outputs,
        [*inner.initializer, *constants],
    )


_Parts = tuple[list[Any], list[Any], list[Any]]
"""Nodes, constants, and declarations of outputs."""


def _prediction(answer: str, model: Convertible, name: str) -> _Parts:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", [answer], ["wiring.double"], to=TensorProto.DOUBLE),
        helper.make_node("Reshape", ["wiring.double", "wiring.rows"], ["wiring.flat"]),
        helper.make_node("Add", ["wiring.flat", "wiring.offset"], ["wiring.number"]),
        helper.make_node("Exp" if model.exponential else "Identity", ["wiring.number"], [name]),
    ]
    constants = [_constant("wiring.rows", [-1]), _constant("wiring.offset", model.offset)]
    return nodes, constants, [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None])]


def _classes(
    answers: list[str], order: list[int], signature: Signature, probabilities: str
) -> _Parts:
    from onnx import TensorProto, helper

    label = signature.label_output
    nodes = [
        helper.make_node("Reshape", [answers[0], "wiring.rows"], [label]),
        helper.make_node("Gather", [answers[1], "wiring.order"], ["wiring.ordered"], axis=1),
        helper.make_node("Cast", ["wiring.ordered"], [probabilities], to=TensorProto.FLOAT),
    ]
    kind = TensorProto.STRING if isinstance(signature.classes[0], str) else TensorProto.INT64
    outputs = [
        helper.make_tensor_value_info(label, kind, [None]),
        helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, [None, len(order)]),
    ]
    return nodes, [_constant("wiring.rows", [-1]), _constant("wiring.order", order)], outputs


def _label(place: str, classes: NDArray[Any], signature: Signature) -> tuple[list[Any], list[Any]]:
    """Return nodes and constants that map positions to classes."""
    from onnx import helper

    nodes = [
        helper.make_node("Reshape", [place, "wiring.rows"], ["wiring.place"]),
        helper.make_node("Gather", ["wiring.labels", "wiring.place"], [signature.label_output]),
    ]
    kind = object if isinstance(classes[0], str) else np.int64
    return nodes, [_constant("wiring.labels", classes.astype(kind))]


def _constant(name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values), name)


def _python_labels(classes: NDArray[Any]) -> list[str | int]:
    return [str(label) if isinstance(label, str) else int(label) for label in classes]


def _order(learned: NDArray[Any], signature: Signature) -> list[int]:
    """Return the position of each of the signature's classes in those of the estimator."""
    known = _python_labels(learned)
    wanted = [label if isinstance(label, str) else int(label) for label in signature.classes]
    if sorted(map(str, known)) != sorted(map(str, wanted)):
        raise ExportError(
            f"the estimator has learned the classes {known}, but {wanted} were promised"
        )
    return [known.index(label) for label in wanted]
