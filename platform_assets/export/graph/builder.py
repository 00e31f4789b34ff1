"""A small builder of ONNX graphs: names, constants and types are kept for the caller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from serving_gateway.contract import DType

# What our own graphs are: below what the serving image reads, so that older images are usable.
OPSET: Final = 18
ML_OPSET: Final = 3
MAX_IR_VERSION: Final = 9
IMAGE_OPSET: Final = 21
IMAGE_ML_OPSET: Final = 5
IMAGE_IR_VERSION: Final = 10
"""What ONNX Runtime 1.19 reads, in the container of Triton 2.51 (24.10)."""
ML: Final = "ai.onnx.ml"

_PREFIX: Final = "serving."
"""Of the names inside the graph: no feature and no output is called so."""


class ExportError(Exception):
    """The estimator cannot be expressed in ONNX, or the graph is not what we promised."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor inside a graph; its first dimension is the rows."""

    name: str
    dtype: DType


@dataclass(slots=True)
class Graph:
    """Nodes and constants of one graph, in the order in which they were added."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    _count: int = 0

    def fresh(self) -> str:
        """Return a name that nothing else in the graph has."""
        self._count += 1
        return f"{_PREFIX}{self._count}"

    def constant(self, values: Any) -> str:
        """Add a constant from an array of numbers or of `str` objects; return its name."""
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        array = np.asarray(values)
        name = self.fresh()
        if array.dtype.kind in "OU":
            encoded: Any = [str(text).encode() for text in array.ravel()]
            tensor = helper.make_tensor(name, TensorProto.STRING, array.shape, encoded)
        else:
            tensor = numpy_helper.from_array(array, name)
        self.constants.append(tensor)
        return name

    def add(
        self, operator: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; return the output's name."""
        from onnx import helper

        name = output or self.fresh()
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        )
        return name

    def cast(self, value: Value, dtype: DType, output: str = "") -> Value:
        """Return `value` as `dtype`; nothing is added where it is that already."""
        if value.dtype is dtype and not output:
            return value
        name = self.add("Cast", value.name, to=element_type(dtype), output=output)
        return Value(name, dtype)

    def flat(self, name: str) -> str:
        """Return a tensor of one value per row without its second dimension."""
        import numpy as np

        return self.add("Reshape", name, self.constant(np.array([-1], dtype=np.int64)))


def element_type(dtype: DType) -> int:
    """Return ONNX's number of a tensor element type."""
    from onnx import TensorProto

    return int(
        {
            DType.FP32: TensorProto.FLOAT,
            DType.FP64: TensorProto.DOUBLE,
            DType.INT64: TensorProto.INT64,
            DType.BOOL: TensorProto.BOOL,
            DType.BYTES: TensorProto.STRING,
        }[dtype]
    )
