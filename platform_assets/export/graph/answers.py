"""From the raw scores of a model to the outputs of the graph: class, probabilities, number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from platform_assets.export.graph.builder import ExportError, Graph, Value
from serving_gateway.contract import DType, Signature


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model answers, as names of tensors in double precision.

    A regression has `number`, [rows] or [rows, 1]. A classifier has `winner`, [rows] INT64, the
    position of the answer among the estimator's classes, and `probabilities`, [rows, classes]
    in that order.
    """

    number: str = ""
    winner: str = ""
    probabilities: str = ""


def from_raw(
    graph: Graph,
    raw: str,
    width: int,
    *,
    classifier: bool,
    slope: float = 1.0,
    tie_is_positive: bool = False,
) -> Scores:
    """Return the answers for raw scores [rows, width], double.

    Args:
        graph: gets the nodes.
        raw: the scores; a classifier with a width of 1 has two classes.
        width: number of scores per row.
        classifier: else the score is the answer.
        slope: the positive class of two has the probability 1 / (1 + exp(-slope * score)).
        tie_is_positive: which of two classes a score of zero means.
    """
    import numpy as np

    if not classifier:
        return Scores(number=raw)
    if width > 1:
        return Scores(
            winner=first_best(graph, raw), probabilities=graph.add("Softmax", raw, axis=1)
        )
    zero, one = graph.constant(np.zeros(1)), graph.constant(np.ones(1))
    positive = graph.add("GreaterOrEqual" if tie_is_positive else "Greater", raw, zero)
    scaled = raw if slope == 1.0 else graph.add("Mul", raw, graph.constant(np.array([slope])))
    likely = graph.add("Sigmoid", scaled)
    unlikely = graph.add("Sub", one, likely)
    return Scores(
        winner=graph.flat(graph.cast(Value(positive, DType.BOOL), DType.INT64).name),
        probabilities=graph.add("Concat", unlikely, likely, axis=1),
    )


def first_best(graph: Graph, scores: str) -> str:
    """Return the position of each row's largest score, [rows]; the first one of several."""
    return graph.add("ArgMax", scores, axis=1, keepdims=0)


def add_outputs(graph: Graph, scores: Scores, estimator: Any, signature: Signature) -> list[Any]:
    """Name the answers as the signature does; return the declarations of the outputs.

    A prediction is FP64, [rows]. A label is INT64 or text, [rows]; probabilities are FP32,
    [rows, classes], in the order of the signature's classes.

    Raises:
        ExportError: estimator and signature do not agree on what is answered.
    """
    if signature.probabilities_output is None:
        graph.cast(Value(graph.flat(scores.number), DType.FP64), DType.FP64, signature.label_output)
        return [_declared(signature.label_output, DType.FP64)]
    order = _order(estimator, signature)
    text = isinstance(signature.classes[0], str)
    names = estimator.classes_ if text else [int(one) for one in estimator.classes_]
    graph.add("Gather", graph.constant(names), scores.winner, output=signature.label_output)
    _probabilities(graph, scores, order, signature.probabilities_output)
    return [
        _declared(signature.label_output, DType.BYTES if text else DType.INT64),
        _declared(signature.probabilities_output, DType.FP32, len(order)),
    ]


def _probabilities(graph: Graph, scores: Scores, order: list[int], output: str) -> None:
    import numpy as np

    name = scores.probabilities
    if order != sorted(order):
        name = graph.add("Gather", name, graph.constant(np.array(order, dtype=np.int64)), axis=1)
    graph.cast(Value(name, DType.FP64), DType.FP32, output)


def _order(estimator: Any, signature: Signature) -> list[int]:
    """Where each class of the signature stands among those of the estimator."""
    known = [str(one) if isinstance(one, str) else int(one) for one in estimator.classes_]
    wanted = [one if isinstance(one, str) else int(one) for one in signature.classes]
    if sorted(map(str, known)) != sorted(map(str, wanted)):
        raise ExportError(
            f"the estimator has learned the classes {known}, but {wanted} were promised"
        )
    return [known.index(one) for one in wanted]


def _declared(name: str, dtype: DType, width: int | None = None) -> Any:
    from onnx import helper

    from platform_assets.export.graph.builder import element_type

    shape = [None] if width is None else [None, width]
    return helper.make_tensor_value_info(name, element_type(dtype), shape)
