"""Estimators that this platform has no nodes for: converted by skl2onnx and set in place."""

from __future__ import annotations

from typing import Any

from platform_assets.export.graph.answers import Scores
from platform_assets.export.graph.builder import ML, ML_OPSET, OPSET, ExportError, Graph, Value
from serving_gateway.contract import DType


def converted_scores(graph: Graph, estimator: Any, matrix: Value) -> Scores:
    """Add what skl2onnx makes of a fitted estimator over a float32 matrix.

    Raises:
        ExportError: skl2onnx cannot convert it.
    """
    matrix = graph.cast(matrix, DType.FP32)
    classifier = hasattr(estimator, "classes_")
    model = _convert(estimator, classifier=classifier)
    outputs = _splice(graph, model, matrix.name)
    if not classifier:
        number = graph.cast(Value(outputs[0], DType.FP32), DType.FP64)
        return Scores(number=number.name)
    probabilities = graph.cast(Value(outputs[1], DType.FP32), DType.FP64)
    return Scores(winner=_position(graph, estimator, outputs[0]), probabilities=probabilities.name)


def _position(graph: Graph, estimator: Any, label: str) -> str:
    """Where the label that the converter's nodes give stands among the classes, [rows]."""
    names = list(estimator.classes_)
    text = isinstance(names[0], str)
    keys = [one.encode() for one in names] if text else [int(one) for one in names]
    attributes: dict[str, Any] = {"keys_strings" if text else "keys_int64s": keys}
    position = graph.add(
        "LabelEncoder", label, domain=ML, values_int64s=list(range(len(names))), **attributes
    )
    return graph.flat(position)


def _convert(estimator: Any, *, classifier: bool) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    width = int(estimator.n_features_in_)
    try:
        return convert_sklearn(
            estimator,
            name="model",
            initial_types=[("matrix", FloatTensorType([None, width]))],
            options={id(estimator): {"zipmap": False}} if classifier else None,
            target_opset={"": OPSET, ML: ML_OPSET},
        )
    except (MissingConverter, MissingShapeCalculator) as error:
        raise ExportError(
            f"{type(estimator).__name__} has no ONNX converter: {_first_line(error)} Nothing was "
            "packaged; choose an estimator that skl2onnx supports."
        ) from error
    # Converters are written by many hands and fail with whatever their hands met.
    except Exception as error:
        raise ExportError(
            f"skl2onnx failed to convert {type(estimator).__name__}: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _splice(graph: Graph, model: Any, matrix: str) -> list[str]:
    """Copy the nodes of another graph, under names of our own; return its outputs' names."""
    from onnx import compose

    inner = compose.add_prefix_graph(model.graph, f"{graph.fresh()}.")
    graph.add("Identity", matrix, output=inner.input[0].name)
    graph.constants.extend(inner.initializer)
    graph.nodes.extend(inner.node)
    return [output.name for output in inner.output]
