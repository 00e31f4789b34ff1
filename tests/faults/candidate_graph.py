"""A classifier as an ONNX graph, to which single faults are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tests.support.onnx_models import model_bytes

_SQUARE: Final = 256
"""Rows and columns of the matrices that take time."""
_SHARPNESS: Final = 4.0
"""Of production's softmax."""


class Graph:
    """A graph under construction, from `features` to `label` and `probabilities`."""

    def __init__(self, sharpness: float = _SHARPNESS, *, is_double: bool = False) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.outputs: dict[str, tuple[int, list[int | None]]] = {}
        self._count = 0
        features, kind = "features", fp32()
        if is_double:
            features, kind = self.node("Cast", features, to=fp64()), fp64()
        head = self.node("Slice", features, self.ints(0), self.ints(3), self.ints(1))
        logits = self.node("Mul", head, self.constant(kind, [sharpness]))
        probabilities = self.node("Softmax", logits, axis=1)
        self.probabilities = self.node("Cast", probabilities, to=fp32())
        self.label = self.node("ArgMax", self.probabilities, axis=1, keepdims=0)
        column = self.node("Slice", "features", self.ints(3), self.ints(4), self.ints(1))
        self.marker = self.node("Squeeze", column, self.ints(1))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        from onnx import helper

        self._count += 1
        name = f"{operator}{self._count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, kind: int, values: Sequence[float], shape: Sequence[int] = (1,)) -> str:
        """Add a tensor; its name."""
        from onnx import helper

        self._count += 1
        name = f"constant{self._count}"
        self.initializers.append(helper.make_tensor(name, kind, shape, values))
        return name

    def ints(self, *values: int) -> str:
        """Add a vector of INT64; its name."""
        from onnx import TensorProto

        return self.constant(TensorProto.INT64, values, [len(values)])

    def floats(self, *values: float) -> str:
        """Add a vector of FP32; its name."""
        return self.constant(fp32(), values, [len(values)])

    def below(self, marker: float) -> str:
        """Which rows have a lower marker."""
        return self.node("Less", self.marker, self.floats(marker))

    def equal(self, marker: float) -> str:
        """Which rows have this marker."""
        return self.node("Equal", self.marker, self.floats(marker))

    def fail(self, rows: str) -> None:
        """Let the inference fail when it has one of these rows: an index out of bounds."""
        from onnx import TensorProto

        index = self.node("Cast", rows, to=TensorProto.INT64)
        nothing = self.node("Gather", self.floats(0.0), index)
        self._add(self.node("Unsqueeze", nothing, self.ints(1)))

    def work(self, rounds: str) -> None:
        """Multiply matrices as many times as `rounds`, INT64 of one element, says."""
        from onnx import TensorProto, helper

        square = [_SQUARE, _SQUARE]
        weights = self.node(
            "ConstantOfShape",
            self.ints(*square),
            value=helper.make_tensor("fill", fp32(), [1], [1 / _SQUARE]),
        )
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["state", weights], ["next"]),
                helper.make_node("Identity", ["go"], ["go_on"]),
            ],
            "round",
            [
                helper.make_tensor_value_info("round", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("state", fp32(), square),
            ],
            [
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", fp32(), square),
            ],
        )
        count = self.node("Squeeze", rounds)
        yes = self.constant(TensorProto.BOOL, [True], [])
        last = self.node("Loop", count, yes, weights, body=body)
        total = self.node("ReduceSum", last, keepdims=0)
        self._add(self.node("Mul", total, self.floats(0.0)))

    def _add(self, zero: str) -> None:
        self.probabilities = self.node("Add", self.probabilities, zero)

    def bytes(self) -> bytes:
        """The model."""
        from onnx import TensorProto, helper

        outputs: dict[str, tuple[int, list[int | None]]] = {
            "label": (TensorProto.INT64, [None]),
            "probabilities": (fp32(), [None, 3]),
            **self.outputs,
        }
        ends = [
            helper.make_node("Identity", [getattr(self, name)], [name])
            for name in ("label", "probabilities")
        ]
        return model_bytes(
            [*self.nodes, *ends],
            inputs={"features": (fp32(), [None, 4])},
            outputs=outputs,
            initializers=self.initializers,
        )


def fp32() -> int:
    """ONNX's number of the type."""
    from onnx import TensorProto

    return int(TensorProto.FLOAT)


def fp64() -> int:
    """ONNX's number of the type."""
    from onnx import TensorProto

    return int(TensorProto.DOUBLE)
