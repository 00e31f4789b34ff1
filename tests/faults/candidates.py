"""Candidates of a release, good and bad, as ONNX graphs that differ from production in one thing.

A row is three numbers whose largest one is the class, and a `marker` from 0 to 99 that decides
which rows a fault meets. `MARKED` is the marker of one client's rows alone, and `NEW` that of rows
which come only after a switch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.support.onnx_models import model_bytes

MARKED: Final = 150
NEW: Final = 200
CLIENTS: Final = 200
_SQUARE: Final = 256
_SHARPNESS: Final = 4.0


def questions(count: int, *, seed: int = 1, are_new: bool = False) -> list[dict[str, Any]]:
    """Bodies of requests by `CLIENTS` clients; `are_new`: half of the rows are such."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        client = chance.randrange(CLIENTS) if number % 50 else 0
        row = [chance.uniform(-0.15, 0.15) for _ in range(3)]
        row[chance.randrange(3)] += 1.0
        marker = MARKED if client == 0 else number % 100
        if are_new and chance.random() < 0.5:
            marker = NEW
        body = {"data": [[round(x, 4) for x in row] + [float(marker)]], "client_id": f"c{client}"}
        found.append(body)
    return found


class Graph:
    """A graph under construction, from `features` to `label` and `probabilities`."""

    def __init__(self, sharpness: float = _SHARPNESS, *, is_double: bool = False) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.outputs: dict[str, tuple[int, list[int | None]]] = {}
        self._count = 0
        features, kind = "features", _float()
        if is_double:
            features, kind = self.node("Cast", features, to=_double()), _double()
        head = self.node("Slice", features, self.ints(0), self.ints(3), self.ints(1))
        logits = self.node("Mul", head, self.constant(kind, [sharpness]))
        probabilities = self.node("Softmax", logits, axis=1)
        self.probabilities = self.node("Cast", probabilities, to=_float())
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
        return self.constant(_float(), values, [len(values)])

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
            value=helper.make_tensor("fill", _float(), [1], [1 / _SQUARE]),
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
                helper.make_tensor_value_info("state", _float(), square),
            ],
            [
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("next", _float(), square),
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
            "probabilities": (_float(), [None, 3]),
            **self.outputs,
        }
        ends = [
            helper.make_node("Identity", [getattr(self, name)], [name])
            for name in ("label", "probabilities")
        ]
        return model_bytes(
            [*self.nodes, *ends],
            inputs={"features": (_float(), [None, 4])},
            outputs=outputs,
            initializers=self.initializers,
        )


def _float() -> int:
    from onnx import TensorProto

    return int(TensorProto.FLOAT)


def _double() -> int:
    from onnx import TensorProto

    return int(TensorProto.DOUBLE)


def production() -> bytes:
    """What the candidates are compared with; a little slower than need be."""
    graph = Graph()
    graph.work(graph.ints(1))
    return graph.bytes()


def _failing(rows: Callable[[Graph], str]) -> bytes:
    graph = Graph()
    graph.fail(rows(graph))
    return graph.bytes()


def fails_always() -> bytes:
    """Every row but those of the warm-up, which are zeros."""
    return _failing(lambda graph: graph.node("Not", graph.node("Equal", _sum(graph), _zero(graph))))


def _sum(graph: Graph) -> str:
    return graph.node("ReduceSum", "features", graph.ints(1), keepdims=0)


def _zero(graph: Graph) -> str:
    return graph.floats(0.0)


def fails_for_one_row_in_fifty() -> bytes:
    """Markers 1 and 2."""
    return _failing(lambda graph: graph.node("Or", graph.equal(1.0), graph.equal(2.0)))


def fails_for_a_client() -> bytes:
    """The rows of client 0, one in fifty."""
    return _failing(lambda graph: graph.equal(float(MARKED)))


def fails_for_new_rows() -> bytes:
    """Rows that come only after the switch."""
    return _failing(lambda graph: graph.equal(float(NEW)))


def names_other_labels() -> bytes:
    """For 15 % of the rows, with the same probabilities."""
    from onnx import TensorProto

    graph = Graph()
    other = graph.node("Cast", graph.below(15.0), to=TensorProto.INT64)
    graph.label = graph.node("Mod", graph.node("Add", graph.label, other), graph.ints(3))
    return graph.bytes()


def shifts_scores() -> bytes:
    """The same labels by much smaller probabilities."""
    return Graph(1.2).bytes()


def is_slow(rounds: int = 40) -> bytes:
    """Every inference multiplies matrices."""
    graph = Graph()
    graph.work(graph.ints(rounds))
    return graph.bytes()


def is_slow_for_some_rows(rounds: int = 100) -> bytes:
    """One row in twenty takes long."""
    from onnx import TensorProto

    graph = Graph()
    slow = graph.node("Cast", graph.below(5.0), to=TensorProto.INT64)
    longest = graph.node("ReduceMax", slow, axes=[0], keepdims=1)
    graph.work(graph.node("Mul", longest, graph.ints(rounds)))
    return graph.bytes()


def is_not_finite_for_some_rows() -> bytes:
    """NaN for 5 % of the rows."""
    graph = Graph()
    rows = graph.node(
        "Unsqueeze", graph.node("And", graph.below(6.0), _not_zero(graph)), graph.ints(1)
    )
    graph.probabilities = graph.node("Where", rows, graph.floats(float("nan")), graph.probabilities)
    return graph.bytes()


def _not_zero(graph: Graph) -> str:
    return graph.node("Greater", graph.marker, graph.floats(0.5))


def answers_another_type() -> bytes:
    """Labels as FP32."""
    graph = Graph()
    graph.label = graph.node("Cast", graph.label, to=_float())
    graph.outputs["label"] = (_float(), [None])
    return graph.bytes()


def leaves_rows_out() -> bytes:
    """No probabilities for 5 % of the rows."""
    graph = Graph()
    kept = graph.node("Not", graph.node("And", graph.below(6.0), _not_zero(graph)))
    graph.probabilities = graph.node("Compress", graph.probabilities, kept, axis=0)
    return graph.bytes()


def equal() -> bytes:
    """The same function."""
    graph = Graph()
    graph.work(graph.ints(1))
    return graph.bytes()


def retrained() -> bytes:
    """A little more certain."""
    graph = Graph(4.2)
    graph.work(graph.ints(1))
    return graph.bytes()


def computes_in_double() -> bytes:
    """FP64 inside; what it reads and answers stays FP32."""
    return Graph(is_double=True).bytes()


def is_faster() -> bytes:
    """Without production's detour."""
    return Graph().bytes()


def has_another_output() -> bytes:
    """An output more, which production does not have."""
    graph = Graph()
    graph.nodes.append(_renamed(graph.node("Neg", graph.probabilities), "explanation"))
    graph.outputs["explanation"] = (_float(), [None, 3])
    return graph.bytes()


def _renamed(name: str, output: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [name], [output])


def trees(count: int = 8) -> bytes:
    """A forest of few trees, fitted to production's labels."""
    import numpy as np
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import RandomForestClassifier

    rows = np.array([body["data"][0] for body in questions(3_000, seed=2)], dtype=np.float32)
    labels = rows[:, :3].argmax(axis=1)
    model = RandomForestClassifier(count, random_state=0, max_features=None).fit(rows, labels)
    graph = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, 4]))],
        options={id(model): {"zipmap": False}},
        target_opset=17,
    )
    return bytes(graph.SerializeToString())
