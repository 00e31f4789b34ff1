"""What a client may hold: time to send and to read, bytes, and requests that wait."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_gateway.http.inference_endpoint import Routes
from serving_gateway.telemetry.counters import LabelledCounts
from tests.support.fake_connection import FakeClient, FakeServer, fake_server, post
from tests.support.waiting import eventually

GOOD = b'{"data":[[1.5,2.5]]}'
PREDICT = post("/predict", GOOD)
OTHER = b"GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n"
HEAD = post("/predict", b"x" * 1000).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.fixture
async def server(tmp_path: Path) -> Iterator[FakeServer]:  # type: ignore[misc]
    one = fake_server(
        tmp_path, head_seconds=10, body_seconds=30, keep_alive_seconds=75, max_pending_bytes=100_000
    )
    with one.plane:
        yield one


def after(client: FakeClient, seconds: float) -> None:
    """Let time pass for a connection."""
    client.connection.enforce_timeouts(asyncio.get_running_loop().time() + seconds)


@pytest.mark.parametrize(
    ("sent", "seconds", "part"),
    [
        (b"P", 10, "head"),
        (PREDICT[:60], 10, "head"),
        (HEAD, 30, "body"),
        (HEAD + b"x" * 999, 30, "body"),
        (HEAD.replace(b"POST /predict", b"POST /other"), 30, "body"),
    ],
)
async def test_request_that_does_not_become_complete_ends_with_408(
    server: FakeServer, sent: bytes, seconds: float, part: str
) -> None:
    for before in (b"", PREDICT):
        client = server.connect().send(before)
        await client.responses(len(before) > 0)
        client.send(sent)
        after(client, seconds - 1)
        assert len(await client.responses(0)) == (len(before) > 0)
        after(client, seconds + 1)
        found = await client.responses((len(before) > 0) + 1)
        assert (found[-1].status, found[-1].headers["connection"]) == (408, "close")
        assert part in json.loads(found[-1].body)["error"]
        client.send(b"x")
        await eventually(client.transport.is_closing)
        assert server.policy.budget.held == 0


async def test_slow_bytes_do_not_extend_the_limit(server: FakeServer) -> None:
    client = server.connect().send(b"POST /predict HTTP/1.1\r\n")
    await asyncio.sleep(0.01)
    client.send(b"Host: a\r\n")
    after(client, 10)
    (found,) = await client.responses(1)
    assert found.status == 408


async def test_idle_connection_is_kept_as_long_as_set(server: FakeServer) -> None:
    for used in (False, True):
        client = server.connect()
        if used:
            client.send(PREDICT)
            await client.responses(1)
        after(client, 74)
        assert not client.transport.closed
        after(client, 76)
        assert client.transport.closed


async def test_connection_that_waits_for_an_answer_is_not_idle(server: FakeServer) -> None:
    server.plane.triton.holds.add(1)
    client = server.connect().send(PREDICT)
    after(client, 1000)
    assert not client.transport.closed
    client.leave()


async def test_unfinished_bodies_are_bounded_in_bytes_over_all_clients(server: FakeServer) -> None:
    waiting = [server.connect().send(HEAD + b"x" * 900) for _ in range(80)]
    assert 80 * 900 < server.policy.budget.held <= 100_000
    refused = server.connect().send(HEAD + b"x" * 900).send(*[b"x" * 10] * 5)
    more = [server.connect().send(HEAD + b"x" * 900) for _ in range(80)]
    found = [one for client in more for one in await client.responses(0)]
    assert {one.status for one in found} == {503}
    assert found[0].headers["retry-after"] == "1"
    assert server.policy.budget.held <= 100_000
    assert [one.status for one in await server.connect().send(PREDICT).responses(1)] == [200]
    for client in (*waiting, *more, refused):
        client.leave()
    await asyncio.sleep(0.01)
    assert server.policy.budget.held == 0


async def test_new_client_takes_the_place_of_one_without_a_request(tmp_path: Path) -> None:
    one = fake_server(tmp_path)
    one.policy.max_connections = 3
    with one.plane:
        one.plane.triton.holds.add(1)
        busy = [one.connect().send(PREDICT) for _ in range(2)]
        silent = one.connect().send(b"POST /pre")
        another = one.connect()
        assert silent.transport.closed
        another.send(PREDICT)
        (refused,) = await one.connect().responses(1)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        for call in one.plane.triton.calls:
            call.answer()
        for client in (*busy, another):
            assert [answer.status for answer in await client.responses(1)] == [200]
            client.leave()


async def test_completed_body_returns_its_bytes(server: FakeServer) -> None:
    client = server.connect()
    for _ in range(100):
        client.send(PREDICT[:-5], PREDICT[-5:])
    found = await client.responses(100)
    assert {one.status for one in found} == {200}
    assert server.policy.budget.held == 0


async def test_client_that_does_not_read_is_not_read_from(server: FakeServer) -> None:
    client = server.connect().send(PREDICT)
    await client.responses(1)
    client.connection.pause_writing()
    assert not client.transport.is_reading_now
    sent = len(client.transport.sent)
    client.send(PREDICT * 3 + OTHER)  # had arrived already
    await asyncio.sleep(0.02)
    assert b"predictions" not in client.transport.sent[sent:]
    client.connection.resume_writing()
    assert [one.status for one in await client.responses(5)] == [200] * 5
    await eventually(lambda: client.transport.is_reading_now)


async def test_client_that_takes_no_response_for_too_long_is_left(server: FakeServer) -> None:
    client = server.connect().send(PREDICT)
    await client.responses(1)
    client.connection.pause_writing()
    after(client, 29)
    assert not client.transport.closed
    after(client, 31)
    assert client.transport.closed


@pytest.mark.parametrize("behind", [b"", b"GARBAGE\r\n\r\n", PREDICT[:-1]])
async def test_client_that_leaves_the_end_of_an_answer_unread_is_left(
    server: FakeServer, behind: bytes
) -> None:
    client = server.connect().send(PREDICT)
    await client.responses(1)
    client.transport.unread = 1
    client.send(behind)
    for seconds in (29, 31):  # the last request may have to be refused first
        after(client, seconds)
        assert not client.transport.is_lost or seconds > 30
    after(client, 31 + 31)
    assert client.transport.is_lost


async def test_refused_client_that_does_not_read_is_left(server: FakeServer) -> None:
    client = server.connect().send(PREDICT)
    await client.responses(1)
    client.connection.pause_writing()
    client.transport.unread = 100_000
    client.send(b"GARBAGE\r\n\r\n")
    client.transport.close()  # after it has lingered
    after(client, 29)
    assert not client.transport.is_lost
    after(client, 31)
    assert client.transport.is_lost


async def test_place_of_a_client_that_does_not_read_is_free_at_once(tmp_path: Path) -> None:
    one = fake_server(tmp_path)
    one.policy.max_connections = 1
    with one.plane:
        idle = one.connect().send(PREDICT)
        await idle.responses(1)
        idle.transport.unread = 1
        client = one.connect()
        assert idle.transport.is_lost
        assert [one.status for one in await client.send(PREDICT).responses(1)] == [200]
        client.leave()


@pytest.mark.parametrize("cut", [1, 60, len(PREDICT) - 1])
async def test_account_of_an_incomplete_request_begins_with_it(
    server: FakeServer, cut: int
) -> None:
    client = server.connect().send(PREDICT[:cut])
    for number in range(1, 6):
        await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        client.send(PREDICT[cut:] + PREDICT[:cut])
        assert len(await client.responses(number)) == number
        assert server.policy.budget.held <= cut
        client.connection.enforce_timeouts(began + 9.99)
        assert not client.transport.is_write_ended
    client.leave()


async def test_pipelined_requests_stop_the_reading_until_they_are_answered(
    server: FakeServer,
) -> None:
    server.plane.triton.holds.add(1)
    client = server.connect().send(PREDICT * 5)
    calls = server.plane.triton.calls
    for number in range(5):
        await eventually(lambda number=number: len(calls) == number + 1)  # type: ignore[misc]
        assert client.transport.is_reading_now == (number == 4)
        calls[-1].answer()
    assert [one.status for one in await client.responses(5)] == [200] * 5


async def test_body_that_comes_after_an_earlier_answer_is_read(server: FakeServer) -> None:
    server.plane.triton.holds.add(1)
    client = server.connect().send(PREDICT + PREDICT[:-5])
    assert not client.transport.is_reading_now
    server.plane.triton.calls[0].answer()
    await eventually(lambda: client.transport.is_reading_now)
    client.send(PREDICT[-5:])
    await eventually(lambda: len(server.plane.triton.calls) == 2)
    server.plane.triton.calls[1].answer()
    assert [one.status for one in await client.responses(2)] == [200] * 2


@pytest.mark.parametrize("request_", [b"POST /predict HTTP/1.1\r\nHost: a\r\n\r\n", PREDICT])
async def test_flood_in_one_read_holds_the_loop_for_a_moment_only(
    server: FakeServer, request_: bytes
) -> None:
    flood = request_ * (262_144 // len(request_))
    client = server.connect()
    started = time.thread_time()
    client.send(flood)
    assert time.thread_time() - started < 0.1
    found = await client.responses(200)
    assert {one.status for one in found} <= {200, 400}
    assert len(client.connection.pipeline) <= 256
    await eventually(lambda: client.transport.closed)


async def test_flood_for_the_application_is_bounded_too(server: FakeServer) -> None:
    client = server.connect().send(OTHER * 4000)
    await client.responses(200)
    assert len(client.connection.pipeline) <= 300
    await eventually(lambda: client.transport.closed)


def test_long_targets_are_not_remembered() -> None:
    routes = Routes(LabelledCounts())
    longest = b"/v2/models/%b/versions/%b/infer/" % (b"x" * 100, b"9" * 18)
    for target in (longest, b"/models/%b/predict" % (b"x" * 10_000)):
        assert routes[target] is not None
    assert list(routes) == [longest]
