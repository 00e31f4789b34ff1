"""Wide answers are encoded and compressed in a thread, so that other requests do not wait."""

from __future__ import annotations

import gzip
import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import Strategy, Traffic
from serving_gateway.errors import GatewayError
from serving_gateway.inference import bodies, prediction, protocol_response, shadow
from serving_gateway.inference.bodies import encode_json, encode_list
from tests.support.fake_connection import FakeServer, fake_server, post
from tests.support.waiting import eventually

CLASSES = 40_000
PREDICT = post("/predict", b'{"data":[[1,2]]}')
INFER = post(
    "/v2/models/m/infer",
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}',
)


class Threads:
    """Notes which threads encode, and lets them wait for the test."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def noting(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which notes who calls it."""

        def noted(*values: Any) -> Any:
            self.names.append(threading.current_thread().name)
            assert self.gate.wait(10)
            return work(*values)

        return noted


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    found = Threads()
    for module in (prediction, protocol_response):
        monkeypatch.setattr(module, "encode_json", found.noting(module.encode_json))
    return found


@pytest.fixture
async def server(tmp_path: Path) -> FakeServer:
    return fake_server(tmp_path)


def widen(server: FakeServer) -> list[float]:
    """Have the model answer so many probabilities for a row."""
    values = [number / 4 for number in range(CLASSES)]
    data = struct.pack(f"<{CLASSES}f", *values)
    server.plane.triton.model.extra["probabilities"] = ("FP32", [1, CLASSES], data)
    return values


@pytest.mark.parametrize(
    "values",
    [None, [], [1], ["é", '"'], [[]], [[0.1, 2.0], [3.5, 4.0]], [*range(20_000)], [[True] * 9_000]],
)
def test_list_in_parts_is_the_same_json(values: list[Any] | None) -> None:
    assert encode_list(values) == encode_json(values)


def test_long_list_is_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def sized(part: list[float]) -> bytes:
        sizes.append(len(part))
        return encode_json(part)

    monkeypatch.setattr(bodies, "encode_json", sized)
    encode_list([[0.5] * 10_000, [0.5] * 3])
    assert max(sizes) < 10_000
    assert sum(sizes) == 10_003


async def test_narrow_answer_is_encoded_at_once(server: FakeServer, threads: Threads) -> None:
    for request in (PREDICT, INFER):
        (answer,) = await server.answer(request)
        assert answer.status == 200
    assert set(threads.names) == {"MainThread"}


async def test_wide_prediction_is_encoded_in_a_thread(server: FakeServer, threads: Threads) -> None:
    values = widen(server)
    (answer,) = await server.answer(PREDICT)
    assert json.loads(answer.body)["probabilities"] == [values]
    assert set(threads.names) == {"large-bodies_0"}
    assert server.plane.queue_budget.held == 0


async def test_wide_tensor_is_encoded_in_a_thread(server: FakeServer, threads: Threads) -> None:
    values = widen(server)
    (answer,) = await server.answer(INFER)
    outputs = {one["name"]: one["data"] for one in json.loads(answer.body)["outputs"]}
    assert outputs["probabilities"] == values
    assert set(threads.names) == {"large-bodies_0"}


async def test_client_that_leaves_a_wide_answer_is_forgotten(
    server: FakeServer, threads: Threads
) -> None:
    widen(server)
    threads.gate.clear()
    client = server.connect().send(PREDICT)
    await eventually(lambda: threads.names)
    client.leave()
    await eventually(lambda: server.metrics.in_flight == 0)
    threads.gate.set()
    await eventually(lambda: server.plane.queue_budget.held == 0)
    assert server.metrics.in_flight == 0
    assert not client.transport.sent


async def test_wide_copy_is_compared_in_a_thread(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widen(server)
    plane = server.plane
    plane.route(Traffic(Strategy.MIRROR, 100), A=1, B=2)
    threads = Threads()
    compared = threads.noting(shadow.largest_difference)
    monkeypatch.setattr(shadow, "largest_difference", compared)
    await server.answer(PREDICT)
    await eventually(lambda: plane.ledger.page.requests == 1)
    assert threads.names == ["large-bodies_0"]
    assert plane.ledger.page.differences.total == 1


async def test_wide_answer_that_json_cannot_hold_is_refused(server: FakeServer) -> None:
    data = struct.pack(f"<{CLASSES}f", *[float("nan")] * CLASSES)
    server.plane.triton.model.extra["probabilities"] = ("FP32", [1, CLASSES], data)
    for request in (PREDICT, INFER):
        (answer,) = await server.answer(request)
        assert (answer.status, json.loads(answer.body)["code"]) == (502, "not_finite_output")


async def test_wide_answer_that_meets_a_bug_is_an_error(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widen(server)

    def fail(*_: Any) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(prediction, "encode_json", fail)
    (answer,) = await server.answer(PREDICT)
    assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal_error")


async def test_wide_answer_is_compressed_in_a_thread(
    server: FakeServer, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = widen(server)
    monkeypatch.setattr(gzip, "compress", threads.noting(gzip.compress))
    request = post("/predict", b'{"data":[[1,2]]}', "Accept-Encoding: gzip")
    (answer,) = await server.answer(request)
    assert answer.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.body))["probabilities"] == [values]
    assert set(threads.names) == {"large-bodies_0"}


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        *((text, True) for text in ("gzip", "br, GZIP", "gzip;q=0.5, br", "gzip ; q=1.0")),
        *((text, False) for text in ("br", "gzip;q=0", "gzip; q=0.0, br", "gzipped", "")),
    ],
)
async def test_answer_is_compressed_for_a_client_that_accepts_it(
    server: FakeServer, accepted: str, is_compressed: bool
) -> None:
    widen(server)
    request = post("/predict", b'{"data":[[1,2]]}', f"Accept-Encoding: {accepted}")
    (answer,) = await server.answer(request)
    assert ("content-encoding" in answer.headers) is is_compressed


async def test_wide_answer_goes_out_as_it_is_while_too_much_waits(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = widen(server)

    def fail(*_: Any) -> bytes:
        raise GatewayError("no room")

    monkeypatch.setattr(gzip, "compress", fail)
    request = post("/predict", b'{"data":[[1,2]]}', "Accept-Encoding: gzip")
    (answer,) = await server.answer(request)
    assert "content-encoding" not in answer.headers
    assert json.loads(answer.body)["probabilities"] == [values]
