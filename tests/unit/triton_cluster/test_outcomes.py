"""What an answer means: for its client, for the version, and for who waits for it."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from serving_gateway.errors import (
    BadUpstreamAnswer,
    GatewayError,
    InferenceRefused,
    Overloaded,
    VariantUnavailable,
)
from serving_gateway.triton import connections as connections_module
from serving_gateway.triton.exchange import TritonResponse
from tests.support.cluster_client import (
    ClusterClient,
    Outcome,
    request,
)
from tests.support.stub_triton import StubTriton
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InferenceRefused),
        (429, Overloaded),
        (503, Overloaded),
        (401, BadUpstreamAnswer),
        (403, BadUpstreamAnswer),
        (404, BadUpstreamAnswer),
        (413, BadUpstreamAnswer),
        (500, BadUpstreamAnswer),
        (520, BadUpstreamAnswer),
    ],
)
@pytest.mark.parametrize("body", [b'{"error":"too wide"}', b'{"error":"too wide \xc3"}', b""])
async def test_only_a_bad_request_is_the_clients_fault(
    alone: ClusterClient, stub: StubTriton, status: int, error: type[GatewayError], body: bytes
) -> None:
    stub.status, stub.body = status, body
    found = await alone.error()
    assert type(found) is error
    assert ("too wide" in found.message) == bool(body)
    if isinstance(found, Overloaded):
        assert found.retry_after == 1
    assert len(stub.inferences) == 1


async def test_a_refusal_by_a_version_that_is_gone_is_not_the_clients_fault(
    alone: ClusterClient, stub: StubTriton
) -> None:
    stub.ready.clear()
    for status in (400, 503):
        stub.status = status
        assert isinstance(await alone.error(), VariantUnavailable)
        assert not alone.is_ready
        assert "READY" in (alone.state.reason or "")


async def test_refusals_at_one_time_share_the_question_about_the_version(
    alone: ClusterClient, stub: StubTriton
) -> None:
    stub.status, stub.delay = 400, 0.01
    before = stub.probes
    outcomes = await alone.many(64)
    assert {type(one) for one in outcomes} == {InferenceRefused}
    assert len(stub.inferences) == 64
    assert stub.probes - before <= 8


async def test_an_outage_is_not_multiplied_by_retries(
    alone: ClusterClient, stub: StubTriton
) -> None:
    stub.drains = True
    before = stub.opened
    stub.close_connections()
    await alone.many(500)
    assert stub.opened - before <= 500 + 100


async def test_a_callback_that_raises_is_logged_and_hears_of_an_error(
    alone: ClusterClient, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Outcome] = []

    def has(count: int) -> bool:
        return len(outcomes) == count

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if isinstance(outcome, TritonResponse):
            raise UnicodeDecodeError("utf-8", b"\xc3", 0, 1, "cut")

    for count in (1, 2):
        alone.cluster.infer(alone.state, request(), asyncio.get_running_loop().time() + 5, done)
        await eventually(partial(has, 2 * count))
        assert isinstance(outcomes[-1], BadUpstreamAnswer)
    assert "could not be processed" in caplog.text
    assert isinstance(await alone.infer(), TritonResponse)


async def test_an_abandoned_inference_calls_nothing_back(
    alone: ClusterClient, stub: StubTriton
) -> None:
    stub.delay = 0.01
    call, ended = alone.send()
    call.abandon()
    await asyncio.sleep(0.05)
    assert not ended.done()
    assert alone.state.on_servers[0].in_flight == 0


async def test_stuck_inferences_delay_neither_others_nor_control_calls(
    alone: ClusterClient, stub: StubTriton
) -> None:
    stub.hangs_inferences = True
    stuck = [alone.send() for _ in range(60)]
    await eventually(lambda: len(stub.inferences) == 60)
    stub.hangs_inferences = False
    started = time.monotonic()
    await alone.cluster.require_ready("m", 1, 1)
    assert await alone.cluster.ready_versions("m", 1) == (1,)
    assert isinstance(await alone.infer(), TritonResponse)
    assert time.monotonic() - started < 0.9
    for call, _ in stuck:
        call.abandon()


async def test_control_calls_have_connections_of_their_own(
    alone: ClusterClient, stub: StubTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 3)
    stub.hangs_inferences = True
    stuck = [alone.send() for _ in range(3)]
    assert isinstance(await alone.error(), Overloaded)
    await alone.cluster.require_ready("m", 1, 1)
    for call, _ in stuck:
        call.abandon()


async def test_only_a_new_connection_proves_that_a_server_in_trouble_is_well(
    alone: ClusterClient, stub: StubTriton
) -> None:
    stub.drains = True
    server = alone.state.on_servers[0].server
    server.note_problem("it drains")
    await alone.probe()
    assert server.problem is not None
    stub.drains = False
    await alone.probe()
    assert alone.is_ready
