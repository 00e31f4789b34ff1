"""What follows an estimator's own scores in a graph: calibration and threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from platform_assets.export.inspection import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Decision:
    """How an estimator's scores become probabilities, and these a label."""

    calibrators: tuple[Any, ...] = ()
    """One per class in the estimator's order, or only that of the second of two; () keeps the
    estimator's probabilities."""
    reads_scores: bool = False
    """Whether calibrators read the decision function instead of probabilities."""
    threshold: float | None = None
    """Least probability from which `positive` is answered; None answers the likeliest class."""
    positive: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether the estimator's own answers are kept."""
        return not self.calibrators and self.threshold is None


def split_decision(estimator: Any) -> tuple[Any, Decision]:
    """Split an estimator from what only decides on its scores; return both.

    Handles scikit-learn's `FixedThresholdClassifier` over probabilities, and
    `CalibratedClassifierCV` with one estimator: skl2onnx does not interpolate isotonic calibration.

    Raises:
        ExportError: the graph of a calibrated estimator lacks the output that calibration reads.
    """
    from sklearn.pipeline import Pipeline

    steps = list(estimator.steps) if isinstance(estimator, Pipeline) else [("model", estimator)]
    name, last = steps.pop()
    last, threshold, positive = _without_threshold(last)
    last, calibrators = _without_calibration(last)
    decision = Decision(
        calibrators,
        bool(calibrators) and hasattr(last, "decision_function"),
        threshold,
        positive,
    )
    if decision.is_plain:
        return estimator, decision
    return Pipeline([*steps, (name, last)]), decision


def _without_threshold(model: Any) -> tuple[Any, float | None, Any]:
    from sklearn.frozen import FrozenEstimator
    from sklearn.model_selection import FixedThresholdClassifier

    if (
        not isinstance(model, FixedThresholdClassifier)
        or model.response_method != "predict_proba"
        or isinstance(model.threshold, str)
        or model.pos_label is None
    ):
        return model, None, None
    inner = getattr(model, "estimator_", model.estimator)
    while isinstance(inner, FrozenEstimator):
        inner = inner.estimator
    return inner, float(model.threshold), model.pos_label


def _without_calibration(model: Any) -> tuple[Any, tuple[Any, ...]]:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import Pipeline

    if (
        not isinstance(model, CalibratedClassifierCV)
        or model.method == "temperature"
        or len(model.calibrated_classifiers_) != 1
    ):
        return model, ()
    (calibrated,) = model.calibrated_classifiers_
    match calibrated.estimator:
        case Pipeline(steps=[(_, only)]):
            return only, tuple(calibrated.calibrators)
        case other:
            return other, tuple(calibrated.calibrators)


class DecisionNodes:
    """Nodes and constants that follow the scores of an estimator, in double precision."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def probabilities(self, scores: str, decision: Decision, classes: int) -> str:
        """Calibrate scores into probabilities, both [rows, classes] in the estimator's order."""
        scores = self._cast(scores, np.float64)
        if not decision.calibrators:
            return scores
        columns = range(classes) if classes > 2 else [1]
        parts = [
            self._calibrate(
                self._node("Gather", scores, self._constant([place]), axis=1), calibrator
            )
            for place, calibrator in zip(columns, decision.calibrators, strict=True)
        ]
        if classes == 2:
            parts.insert(0, self._node("Sub", self._constant(1.0), parts[0]))
            return self._node("Concat", *parts, axis=1)
        together = self._node("Concat", *parts, axis=1)
        total = self._node("ReduceSum", together, self._constant([1]))
        # As in scikit-learn: where all probabilities are 0, all classes are equally likely.
        none = self._node("Equal", total, self._constant(0.0))
        divided = self._node("Div", together, self._node("Where", none, self._constant(1.0), total))
        return self._node("Where", none, self._constant(1.0 / classes), divided)

    def label(self, probabilities: str, decision: Decision, classes: list[Any]) -> str:
        """Return labels, [rows], by the threshold, or the first of the likeliest classes."""
        if decision.threshold is None:
            place = self._node("ArgMax", probabilities, axis=1, keepdims=0)
        else:
            positive = classes.index(decision.positive)
            classes = [classes[1 - positive], classes[positive]]
            stated = self._node("Gather", probabilities, self._constant(positive), axis=1)
            missed = self._node("Less", stated, self._constant(decision.threshold))
            place = self._cast(self._node("Not", missed), np.int64)
        kind = np.dtype(object) if isinstance(classes[0], str) else np.dtype(np.int64)
        return self._node("Gather", self._constant(np.array(classes, dtype=kind)), place, axis=0)

    def _calibrate(self, score: str, calibrator: Any) -> str:
        """Return one class's probability by its calibrator, [rows, 1]."""
        if hasattr(calibrator, "X_thresholds_"):
            return self._interpolate(score, calibrator.X_thresholds_, calibrator.y_thresholds_)
        if not hasattr(calibrator, "a_"):
            raise ExportError(f"{type(calibrator).__name__} is not a calibrator with a converter")
        scaled = self._node("Mul", score, self._constant(float(calibrator.a_)))
        shifted = self._node("Add", scaled, self._constant(float(calibrator.b_)))
        odds = self._node("Add", self._node("Exp", shifted), self._constant(1.0))
        return self._node("Div", self._constant(1.0), odds)

    def _interpolate(self, score: str, places: NDArray[Any], values: NDArray[Any]) -> str:
        """Interpolate linearly between places, constant beyond them."""
        places, values = np.asarray(places, np.float64), np.asarray(values, np.float64)
        if len(places) == 1:
            return self._node(
                "Add",
                self._node("Mul", score, self._constant(0.0)),
                self._constant(float(values[0])),
            )
        slopes = np.append(np.diff(values) / np.diff(places), 0.0)
        first, last = (self._constant(float(places[end])) for end in (0, -1))
        inside = self._node("Max", self._node("Min", score, last), first)
        # The last place that is not above the score: where its linear piece begins.
        reached = self._cast(
            self._node("Not", self._node("Less", inside, self._constant(places[1:]))), np.int64
        )
        place = self._node("ReduceSum", reached, self._constant([1]))
        begin, value, slope = (
            self._node("Gather", self._constant(column), place, axis=0)
            for column in (places, values, slopes)
        )
        distance = self._node("Sub", inside, begin)
        return self._node("Add", value, self._node("Mul", slope, distance))

    def _cast(self, name: str, kind: Any) -> str:
        from onnx import helper

        return self._node("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"decision.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [output], **attributes))
        return output

    def _constant(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"decision.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
