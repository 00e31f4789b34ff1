"""Candidates of a release, good and bad, as ONNX graphs that differ from production in one thing.

A row is three numbers whose largest one is the class, and a `marker` from 0 to 99 that decides
which rows a fault meets. `MARKED` is the marker of one client's rows alone, and `NEW` that of rows
which come only after a switch.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from tests.faults.candidate_graph import Graph, fp32

MARKED: Final = 150
NEW: Final = 200
CLIENTS: Final = 200


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


def slows_down(rounds: int = 80) -> bytes:
    """Every inference multiplies matrices."""
    graph = Graph()
    graph.work(graph.ints(rounds))
    return graph.bytes()


def slows_down_for_some_rows(rounds: int = 100) -> bytes:
    """One row in twenty takes long."""
    from onnx import TensorProto

    graph = Graph()
    slow = graph.node("Cast", graph.below(5.0), to=TensorProto.INT64)
    longest = graph.node("ReduceMax", slow, axes=[0], keepdims=1)
    graph.work(graph.node("Mul", longest, graph.ints(rounds)))
    return graph.bytes()


def answers_nan_for_some_rows() -> bytes:
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
    graph.label = graph.node("Cast", graph.label, to=fp32())
    graph.outputs["label"] = (fp32(), [None])
    return graph.bytes()


def leaves_rows_out() -> bytes:
    """No probabilities for 5 % of the rows."""
    graph = Graph()
    kept = graph.node("Not", graph.node("And", graph.below(6.0), _not_zero(graph)))
    graph.probabilities = graph.node("Compress", graph.probabilities, kept, axis=0)
    return graph.bytes()


def equals_production() -> bytes:
    """The same function."""
    graph = Graph()
    graph.work(graph.ints(1))
    return graph.bytes()


def changes_slightly() -> bytes:
    """A little more certain."""
    graph = Graph(4.2)
    graph.work(graph.ints(1))
    return graph.bytes()


def computes_in_double() -> bytes:
    """FP64 inside; what it reads and answers stays FP32."""
    return Graph(is_double=True).bytes()


def answers_faster() -> bytes:
    """Without production's detour."""
    return Graph().bytes()


def adds_an_output() -> bytes:
    """An output more, which production does not have."""
    graph = Graph()
    graph.nodes.append(_renamed(graph.node("Neg", graph.probabilities), "explanation"))
    graph.outputs["explanation"] = (fp32(), [None, 3])
    return graph.bytes()


def _renamed(name: str, output: str) -> Any:
    from onnx import helper

    return helper.make_node("Identity", [name], [output])


def uses_few_trees(count: int = 8) -> bytes:
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
