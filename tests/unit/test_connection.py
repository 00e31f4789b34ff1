"""One client connection: which requests are answered, in which order, and when it ends."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl

from serving_gateway.contract import Strategy, Traffic
from tests.support.fake_connection import FakeServer, Response, fake_server, post
from tests.support.waiting import eventually

GOOD = b'{"data":[[1.5,2.5]]}'
PREDICT = post("/predict", GOOD)
INFER_BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
INFER = post("/v2/models/m/infer", INFER_BODY)
OTHER = b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n"
OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")


@pytest.fixture
async def server(tmp_path: Path) -> Iterator[FakeServer]:  # type: ignore[misc]
    one = fake_server(tmp_path)
    with one.plane:
        yield one


def statuses(found: list[Response]) -> list[int]:
    return [one.status for one in found]


async def test_pipelined_requests_of_all_kinds_are_answered_in_order(server: FakeServer) -> None:
    bodies = [post("/predict", b'{"data":[[%d,0]]}' % number) for number in range(5)]
    wrong = post("/predict", b'{"data":[[1]]}')
    stream = [bodies[0], OTHER, wrong, INFER, bodies[1], OTHER, bodies[2], wrong]
    for parts in ([b"".join(stream)], stream):
        found = await server.answer(*parts, count=8)
        assert statuses(found) == [200, 200, 422, 200, 200, 200, 200, 422]
        scores = [json.loads(found[at].body)["probabilities"][0][0] for at in (0, 4, 6)]
        assert scores == [0, 1, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_client_id_means_the_same_in_the_header_as_in_the_body(
    server: FakeServer, encoding: str
) -> None:
    server.plane.route(Traffic(Strategy.SPLIT, 50), A=1, B=2)
    for number in range(20):
        client = f"Müller-{number}"
        body = json.loads(INFER_BODY) | {"parameters": {"client_id": client}}
        by_body = post("/v2/models/m/infer", json.dumps(body, ensure_ascii=False).encode())
        by_header = post("/v2/models/m/infer", INFER_BODY, "X-Client-Id: ?")
        by_header = by_header.replace(b"?", client.encode(encoding))
        found = await server.answer(by_body, by_header, count=2)
        assert found[0].headers["x-serving-variant"] == found[1].headers["x-serving-variant"]


@pytest.mark.parametrize("path", ["/predict", "/models/m/predict", "/v2/models/m/infer"])
async def test_replica_behind_the_generation_asked_for_refuses_and_looks(
    server: FakeServer, path: str
) -> None:
    body = INFER_BODY if path.startswith("/v2") else GOOD

    async def ask(least: str) -> tuple[int, str]:
        found = (await server.answer(post(path, body, f"X-Min-Generation: {least}")))[0]
        return found.status, json.loads(found.body).get("code", "")

    assert await ask("1") == (200, "")
    assert server.plane.woken == 0
    assert await ask("2") == (503, "replica_behind")
    assert server.plane.woken == 1
    assert await ask("-1") == await ask("9" * 19) == await ask("new") == (422, "wrong_type")
    server.plane.route(A=2)
    assert await ask("2") == (200, "")


@pytest.mark.parametrize("step", [1, 7, 10**6])
@pytest.mark.parametrize("behind", [b"", PREDICT, OTHER, post("/predict", GOOD, *OFFER)])
@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer", "/other"])
async def test_offer_of_http2_is_ignored(
    server: FakeServer, path: str, behind: bytes, step: int
) -> None:
    body = INFER_BODY if path.startswith("/v2") else GOOD
    stream = post(path, body, *OFFER) + behind
    parts = [stream[at : at + step] for at in range(0, len(stream), step)]
    found = await server.answer(*parts, count=2 if behind else 1)
    assert statuses(found) == [200] * (2 if behind else 1)
    assert found[0].body.startswith(b"POST /other " + GOOD if path == "/other" else b"{")


async def test_many_offers_of_http2_in_one_read_are_survived(server: FakeServer) -> None:
    stream = post("/predict", b"", *OFFER) * 3000
    client = server.connect().send(stream)
    found = await client.responses(1)
    assert found[0].status in {400, 431}


@pytest.mark.parametrize(
    "request_",
    [
        PREDICT.replace(b"Host: gateway\r\n", b""),
        PREDICT.replace(b"Host: gateway\r\n", b"Host: a\r\nHost: a\r\n"),
        PREDICT.replace(b"1.1\r\nHost: gateway", b"1.0\r\nHost: a\r\nHost: b"),
        OTHER.replace(b"Host: gateway\r\n", b""),
        OTHER.replace(b"Host: gateway", b"Host: a\r\nHost: b"),
        b"GARBAGE\r\n\r\n",
        PREDICT.replace(b"Content-Length: 20", b"Content-Length: 20\r\nContent-Length: 20"),
        PREDICT.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length"),
    ],
)
async def test_ambiguous_request_is_refused_and_the_connection_ends(
    server: FakeServer, request_: bytes
) -> None:
    for before in (b"", PREDICT):
        client = server.connect()
        if before:
            client.send(before)
            await client.responses(1)
        client.send(request_)
        found = await client.responses(2 if before else 1)
        assert found[-1].status == 400
        assert found[-1].headers["connection"] == "close"
        assert json.loads(found[-1].body)["code"] in {"malformed_head", "malformed_body"}
        assert client.transport.is_write_ended, "a client need not wait for the close"
        await eventually(client.transport.is_closing)


async def test_refusal_behind_a_request_answered_before_its_body_is_said(
    server: FakeServer,
) -> None:
    early, _, body = post("/early", GOOD).rpartition(b"{")
    client = server.connect().send(early)
    assert statuses(await client.responses(1)) == [200]
    client.send(b"{" + body).send(b"GARBAGE\r\n\r\n")
    assert statuses(await client.responses(2)) == [200, 400]


async def test_answer_under_way_is_not_lost_to_garbage_behind_it(server: FakeServer) -> None:
    found = await server.answer(PREDICT + b"GARBAGE\r\n\r\n", count=2)
    assert statuses(found) in ([200], [200, 400])


async def test_head_of_an_http_1_0_request_needs_no_host(server: FakeServer) -> None:
    old = post("/predict", GOOD, version="1.0").replace(b"Host: gateway\r\n", b"")
    client = server.connect().send(old)
    (found,) = await client.responses(1)
    assert (found.status, found.headers["connection"]) == (200, "close")
    await eventually(lambda: client.transport.closed)


async def test_client_may_ask_for_the_end_of_the_connection(server: FakeServer) -> None:
    client = server.connect().send(post("/predict", GOOD, "Connection: close"))
    (found,) = await client.responses(1)
    assert (found.status, found.headers["connection"]) == (200, "close")
    await eventually(lambda: client.transport.closed)


@pytest.mark.parametrize("trailer", [b"", b"X-Sum: 7\r\n"])
async def test_chunked_bodies_are_read(server: FakeServer, trailer: bytes) -> None:
    head = PREDICT.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"5\r\n" + GOOD[:5] + b"\r\nf;ext=1\r\n" + GOOD[5:] + b"\r\n0\r\n" + trailer + b"\r\n"
    for step in (1, 3, 10**6):
        stream = head + chunks + PREDICT
        parts = [stream[at : at + step] for at in range(0, len(stream), step)]
        found = await server.answer(*parts, count=2)
        assert statuses(found) == [200, 200]
        chunked, plain = [json.loads(one.body) for one in found]
        assert chunked.pop("prediction_id") != plain.pop("prediction_id")
        assert chunked == plain


async def test_body_over_the_limit_is_refused_however_it_comes(tmp_path: Path) -> None:
    server = fake_server(tmp_path, max_body_bytes=1000)
    head = PREDICT.partition(b"Content-Length")[0]
    chunk = b"%x\r\n%b\r\n" % (600, b" " * 600)
    for parts in (
        [post("/predict", b" " * 1001)],
        [head + b"Content-Length: 1001\r\n\r\n"],
        [head + b"Content-Length: 99999999999999999999999\r\n\r\n"],
        [head + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk],
        [head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % 1001 + b" " * 1001],
    ):
        found = await server.answer(*parts)
        assert found[0].status in {400, 413}
        if b"99999999999999999999999" not in parts[0]:
            assert found[0].status == 413
        assert found[0].headers["connection"] == "close"
    with server.plane:
        assert statuses(await server.answer(post("/predict", GOOD + b" " * 980))) == [200]


@pytest.mark.parametrize("part", ["target", "header", "headers", "trailers"])
@pytest.mark.parametrize("step", [1000, 10**6])
async def test_head_over_the_limit_is_refused(server: FakeServer, part: str, step: int) -> None:
    long = b"a" * 20_000
    stream = {
        "target": b"POST /%b HTTP/1.1\r\n" % long,
        "header": b"POST /predict HTTP/1.1\r\nHost: a\r\nX: %b\r\n" % long,
        "headers": b"POST /predict HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 4000,
        "trailers": b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"0\r\n"
        + b"X: y\r\n" * 4000,
    }[part]
    stream += b"\r\n"
    if part == "trailers" and step > len(stream):
        return  # what came in one read is dropped anyway
    client = server.connect()
    client.send(*[stream[at : at + step] for at in range(0, len(stream), step)])
    (found,) = await client.responses(1)
    assert found.status == 431
    assert sum(map(len, client.connection.headers)) < 200_000


async def test_head_split_over_reads_is_answered(server: FakeServer) -> None:
    for cut in range(len(PREDICT)):
        found = await server.answer(PREDICT[:cut], PREDICT[cut:])
        assert statuses(found) == [200]
    assert server.policy.budget.held == 0


async def test_client_that_waits_for_100_continue_gets_it(server: FakeServer) -> None:
    head, _, body = post("/predict", GOOD, "Expect: 100-continue").partition(b"\r\n\r\n")
    client = server.connect().send(head + b"\r\n\r\n")
    await eventually(lambda: client.transport.sent.startswith(b"HTTP/1.1 100 "))
    (found,) = await client.send(body).responses(1)
    assert found.status == 200


async def test_clients_that_leave_give_their_place_up(server: FakeServer) -> None:
    server.plane.triton.holds.add(1)
    tasks = len(asyncio.all_tasks())
    first = [server.connect().send(PREDICT) for _ in range(2)]
    for _ in range(200):
        client = server.connect().send(PREDICT)
        assert server.plane.queue_budget.held > 0
        client.leave()
        await asyncio.sleep(0)
    assert server.plane.queue_budget.held == 0
    assert (len(server.policy.connections), len(server.state.connections)) == (2, 2)
    assert server.metrics.in_flight == 2
    assert len(asyncio.all_tasks()) == tasks
    for call in server.plane.triton.calls:
        call.answer()
    for client in first:
        assert statuses(await client.responses(1)) == [200]
    assert server.metrics.in_flight == 0


async def test_client_that_leaves_gives_the_place_of_all_its_requests_up(
    server: FakeServer,
) -> None:
    server.plane.triton.holds.add(1)
    busy = [server.connect().send(PREDICT) for _ in range(2)]
    client = server.connect().send(PREDICT + PREDICT + OTHER)
    assert server.plane.queue_budget.held > 0
    client.leave()
    await asyncio.sleep(0.01)
    assert server.plane.queue_budget.held == 0
    assert server.metrics.in_flight == len(busy)


async def test_nothing_is_kept_of_a_connection_that_ended(server: FakeServer) -> None:
    await server.answer(PREDICT + OTHER + PREDICT, b"POST", count=3)

    server.plane.triton.calls.clear()

    def is_gone() -> bool:
        gc.collect()
        return not any(type(one) is server.connection_class for one in gc.get_objects())

    await eventually(is_gone)
    assert not server.state.tasks


async def test_idle_connection_does_not_keep_the_last_body(server: FakeServer) -> None:
    client = server.connect().send(post("/predict", GOOD + b" " * 50_000))
    await client.responses(1)
    assert len(client.connection.cycle.body) == 0


async def test_draining_server_says_that_it_closes(server: FakeServer) -> None:
    server.lifecycle.draining = True
    (found,) = await server.answer(PREDICT)
    assert found.headers["connection"] == "close"


async def test_shutdown_lets_the_answer_under_way_out(server: FakeServer) -> None:
    server.plane.triton.holds.add(1)
    idle, busy = server.connect(), server.connect().send(PREDICT)
    for client in (idle, busy):
        client.connection.shutdown()
    assert (idle.transport.closed, busy.transport.closed) == (True, False)
    server.plane.triton.calls[0].answer()
    (found,) = await busy.responses(1)
    assert (found.status, found.headers["connection"]) == (200, "close")
    await eventually(lambda: busy.transport.closed)


def test_what_is_used_of_uvicorn_is_there() -> None:
    source = inspect.getsource(httptools_impl.HttpToolsProtocol)
    for attribute in (
        *("parser", "loop", "transport", "flow", "pipeline", "headers", "url", "cycle", "app"),
        *("server_state", "expect_100_continue", "connections", "tasks"),
    ):
        assert f"self.{attribute}" in source, attribute
    wanted: dict[Any, tuple[str, ...]] = {
        httptools_impl.HttpToolsProtocol: (
            *("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body"),
            *("on_message_complete", "on_response_complete", "shutdown", "_start_asgi_task"),
        ),
        httptools_impl.RequestResponseCycle: ("run_asgi", "send", "receive"),
        FlowControl: ("pause_reading", "resume_reading", "pause_writing", "resume_writing"),
    }
    for kind, names in wanted.items():
        assert all(callable(getattr(kind, name)) for name in names)
    cycle = inspect.getsource(httptools_impl.RequestResponseCycle.__init__)
    for attribute in (
        *("disconnected", "keep_alive", "message_event", "more_body", "body"),
        *("response_started", "response_complete", "on_response"),
    ):
        assert f"self.{attribute} " in cycle or f"self.{attribute}:" in cycle, attribute
    assert "appendleft" in source
    assert "self.pipeline.pop()" in source
    shutdown = inspect.getsource(httptools_impl.HttpToolsProtocol.shutdown)
    assert "self.cycle.keep_alive = False" in shutdown
    assert httptools_impl.STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")
    flow = inspect.getsource(FlowControl)
    assert "self.read_paused" in flow
    assert "self.write_paused" in flow
