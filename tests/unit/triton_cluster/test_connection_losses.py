"""Connections and servers that are lost: what is sent again, and what never is."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving_gateway.errors import (
    TritonUnavailable,
)
from serving_gateway.triton import inference_call as call_module
from serving_gateway.triton.exchange import ConnectFailed, TritonResponse
from tests.support.cluster_client import (
    ClusterClient,
    MakeCluster,
    good,
)
from tests.support.servers import LOOPBACK, free_port
from tests.support.stub_triton import StubTriton
from tests.support.waiting import eventually


async def test_a_version_is_not_ready_before_it_was_asked_for(
    make: MakeCluster, stub: StubTriton
) -> None:
    state = make(stub.url).version("m", 1)
    assert (state.ready, state.confirmed_at) == (False, None)
    assert state.reason == "not yet confirmed with Triton"


async def test_an_answer_confirms_the_version(alone: ClusterClient, stub: StubTriton) -> None:
    before = alone.state.confirmed_at
    assert before is not None
    outcome = await alone.infer()
    assert isinstance(outcome, TritonResponse)
    assert outcome.body == stub.body
    assert (alone.state.confirmed_at or 0) > before


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("count", [1, 140, 300])
async def test_a_closed_port_is_reported_at_once(
    make: MakeCluster, count: int, is_listed: bool
) -> None:
    url = f"http://{LOOPBACK}:{free_port()}"
    client = ClusterClient(make(url, servers_url=url if is_listed else None))
    started = time.monotonic()
    outcomes = await client.many(count)
    assert {type(one) for one in outcomes} == {ConnectFailed}
    assert time.monotonic() - started < 1 + count / 50  # 5 s when nothing notices


async def test_connections_that_the_server_closed_meanwhile_fail_no_request(
    alone: ClusterClient, stub: StubTriton
) -> None:
    for _ in range(20):
        assert good(await alone.many(4))
        stub.close_connections()
    assert good(await alone.many(4))


async def test_connections_that_are_reset_fail_no_request(
    alone: ClusterClient, stub: StubTriton
) -> None:
    for _ in range(20):
        assert good(await alone.many(4))
        stub.close_connections(reset=True)
    assert good(await alone.many(4))


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_request_that_kills_the_only_server_is_not_sent_again(
    alone: ClusterClient, stub: StubTriton, is_kept: bool
) -> None:
    if is_kept:
        await alone.infer()
    stub.inferences.clear()
    stub.dies = True
    assert isinstance(await alone.error(), TritonUnavailable)
    assert len(stub.inferences) == 1


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_request_that_kills_a_server_reaches_no_other(
    pair: ClusterClient, stub: StubTriton, other: StubTriton, is_kept: bool
) -> None:
    if is_kept:
        assert good(await pair.many(4))
    for one in (stub, other):
        one.inferences.clear()
        one.dies = True
    assert isinstance(await pair.error(), TritonUnavailable)
    assert len(stub.inferences) + len(other.inferences) == 1


async def test_a_dying_server_that_still_accepts_connections_spreads_no_request(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    assert good(await pair.many(4))
    for one in (stub, other):
        one.inferences.clear()
        one.hangs_inferences = True
    _, ended = pair.send()
    await eventually(lambda: len(stub.inferences) + len(other.inferences) == 1)
    dying = stub if stub.inferences else other
    dying.drains = True
    dying.close_connections()
    assert isinstance(await ended, TritonUnavailable)
    assert len(stub.inferences) + len(other.inferences) == 1


async def test_a_connection_that_ends_during_the_work_is_not_a_reason_to_repeat_it(
    alone: ClusterClient, stub: StubTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "AT_ONCE_SECONDS", 0.01)
    await alone.infer()
    stub.hangs_inferences = True
    _, ended = alone.send()
    await eventually(lambda: len(stub.inferences) == 2)
    await asyncio.sleep(0.02)
    stub.close_connections()
    assert isinstance(await ended, TritonUnavailable)
    assert len(stub.inferences) == 2


@pytest.mark.parametrize(("repeatable", "seen"), [(True, 2), (False, 1)])
async def test_what_may_have_been_executed_is_repeated_only_where_that_is_allowed(
    alone: ClusterClient, stub: StubTriton, repeatable: bool, seen: int
) -> None:
    await alone.infer()
    stub.inferences.clear()
    stub.hangs_inferences = True
    _, ended = alone.send(repeatable=repeatable)
    await eventually(lambda: len(stub.inferences) == 1)
    stub.hangs_inferences = False
    # A balancer or an idle limit ended the connection; the server lives.
    stub.close_connections()
    assert isinstance(await ended, TritonResponse) is repeatable
    assert len(stub.inferences) == seen


async def test_a_sequence_is_repeated_when_it_cannot_have_been_read(
    alone: ClusterClient, stub: StubTriton
) -> None:
    await alone.infer(repeatable=False)
    stub.close_connections()
    assert isinstance(await alone.infer(repeatable=False), TritonResponse)
    assert len(stub.inferences) == 2
