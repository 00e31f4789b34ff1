"""Servers and versions that do not answer in time."""

from __future__ import annotations

import asyncio
import time

from serving_gateway.errors import (
    VariantUnavailable,
)
from serving_gateway.triton.exchange import TritonResponse
from tests.support.cluster_client import (
    ClusterClient,
    MakeCluster,
    good,
    request,
)
from tests.support.stub_triton import StubTriton
from tests.support.waiting import eventually


def miss(client: ClusterClient, times: int = 1) -> None:
    for _ in range(times):
        call, _ = client.send()
        call.abandon(overdue=True)


async def test_five_missed_deadlines_in_a_row_stop_the_wait_for_a_version(
    alone: ClusterClient, stub: StubTriton, impatient: None
) -> None:
    alone.state.probe_request = request(b"[]")
    stub.hangs_inferences = True
    miss(alone, 4)
    assert [one.is_hung for one in alone.state.on_servers] == [False]
    miss(alone)
    assert not alone.is_ready
    assert "deadline" in (alone.state.reason or "")
    started = time.monotonic()
    error = await alone.error()
    assert isinstance(error, VariantUnavailable)
    assert error.retry_after == 1
    assert time.monotonic() - started < 0.9
    # That it says READY does not help.
    assert not (await alone.probe()).ready
    await eventually(lambda: b"[]" in stub.inferences)
    await asyncio.sleep(0.2)  # four times the pause between trials
    assert stub.inferences.count(b"[]") == 1, "one trial at a time"
    stub.hangs_inferences = False
    stub.close_connections()  # the model was restarted
    await eventually(lambda: alone.is_ready)
    assert isinstance(await alone.infer(), TritonResponse)


async def test_answers_in_between_keep_a_slow_version_in_use(
    alone: ClusterClient, stub: StubTriton
) -> None:
    for _ in range(3):
        miss(alone, 4)
        assert isinstance(await alone.infer(), TritonResponse)
    assert alone.is_ready


async def test_a_hung_version_without_a_trial_request_is_tried_by_one_request(
    alone: ClusterClient, stub: StubTriton, impatient: None
) -> None:
    miss(alone, 5)
    assert not alone.is_ready
    await eventually(lambda: alone.is_ready)
    miss(alone)
    assert not alone.is_ready
    await eventually(lambda: alone.is_ready)
    assert isinstance(await alone.infer(), TritonResponse)


async def test_while_a_version_hangs_on_one_server_the_other_answers(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stub.hangs_inferences = True
    for _ in range(5):
        at = pair.state.on_servers[0]
        at.in_flight, pair.state.on_servers[1].in_flight = 0, 9
        miss(pair)
    pair.state.on_servers[1].in_flight = 0
    assert pair.state.on_servers[0].is_hung
    assert pair.is_ready
    assert good(await pair.many(10))


async def test_a_stopped_server_is_left_soon_after_it_fell_silent(
    alone: ClusterClient, stub: StubTriton
) -> None:
    await alone.infer()
    stub.hangs = True
    call, _ = alone.send()
    started = time.monotonic()
    while alone.is_ready:
        await alone.probe()
    assert time.monotonic() - started < 2
    assert isinstance(await alone.error(), VariantUnavailable)
    call.abandon()
    stub.hangs = False
    assert (await alone.probe()).ready


async def test_an_answer_ends_the_silence_of_a_server(
    alone: ClusterClient, stub: StubTriton
) -> None:
    await alone.infer()
    stub.hangs = True
    stub.delay = 0.0
    call, ended = alone.send()
    await eventually(lambda: len(stub.inferences) == 2)
    while alone.is_ready:
        await alone.probe()
    for connection in stub.connections:
        connection.reply(200, stub.body)
    assert isinstance(await ended, TritonResponse)
    assert [one.is_usable for one in alone.state.on_servers] == [True]
    call.abandon()


async def test_a_server_that_answers_inferences_may_be_slow_to_say_that_it_is_ready(
    make: MakeCluster, stub: StubTriton
) -> None:
    client = ClusterClient(make(stub.url, staleness=0.5))
    await client.probe()
    stub.hangs = True
    stub.hangs_inferences = False
    until = time.monotonic() + 1.5

    async def answers() -> None:
        while time.monotonic() < until:
            stub.hangs = False
            await client.infer()
            stub.hangs = True
            await asyncio.sleep(0.05)

    async def probes() -> None:
        while time.monotonic() < until:
            assert (await client.probe()).ready

    await asyncio.gather(answers(), probes())


async def test_an_idle_server_that_does_not_answer_is_left_when_its_word_is_stale(
    make: MakeCluster, stub: StubTriton
) -> None:
    client = ClusterClient(make(stub.url, staleness=1))
    await client.probe()
    stub.hangs = True
    assert (await client.probe()).ready
    await eventually(lambda: time.monotonic() - (client.state.confirmed_at or 0) > 1)
    assert not (await client.probe()).ready
