"""Triton is killed, stopped or asked to end at a bad moment: what clients and the disk see."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from platform_assets.export.records import PackagedVersion
from platform_assets.resources.triton import TritonUnreachable
from platform_assets.serving.loading import retire
from platform_assets.serving.records import ServingState
from serving_gateway.contract import DEFAULT_MODEL
from tests.faults.scale import report, scale
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.load import Answer, Load
from tests.support.servers import RunningTriton, run_triton, wait_until
from tests.support.serving import Serving, workers

_PER_SECOND: Final = scale(80, 200)
_CLIENTS: Final = 64
_DEADLINE_SECONDS: Final = 5.0
"""Of a request, by the gateway's settings."""
_REFUSAL_SECONDS: Final = 1.0
_RECOVERY_SECONDS: Final = 10.0
_MOST_IN_HAND: Final = 16
"""Requests that Triton may have at one moment: two inferences of what came in some milliseconds."""
_MOST_DESCRIPTORS: Final = 20
"""That a Triton without answers may cost the gateway."""


@pytest.fixture
def serving(repository: Path, tmp_path: Path) -> Iterator[Serving]:
    """A Triton with version 1 in production, by the pipeline's own steps."""
    with run_triton(repository, tmp_path / "triton") as triton:
        serving = Serving(triton, is_over_grpc=True)
        assert serving.load(serving.package(1)).ready
        yield serving


@pytest.fixture
def gateway(serving: Serving, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway that routes to it."""
    with run_gateway(tmp_path, serving.running.http_url) as gateway:
        gateway.routed(1)
        yield gateway


@contextlib.asynccontextmanager
async def loaded(gateway: RunningGateway) -> AsyncIterator[list[Answer]]:
    """Clients that ask at a steady rate, and their answers."""
    async with Load(gateway.url, _CLIENTS, per_second=_PER_SECOND) as load:
        await asyncio.to_thread(wait_until, lambda: len(load.answers) > 50, 60, "answers")
        yield load.answers


def check_answers(answers: Sequence[Answer]) -> None:
    """Each is by version 1, or a refusal that says when to come again, by the deadline."""
    for one in answers:
        if one.status == 200:
            assert one.predictions == [1], one
        else:
            assert (one.status, one.retry_after) in {(503, "1"), (504, "1")}, one
        assert one.seconds < _DEADLINE_SECONDS + 1, one


async def test_a_killed_triton_is_answered_for_within_a_second_and_comes_back_by_itself(
    serving: Serving, gateway: RunningGateway
) -> None:
    refusals: list[Answer] = []
    recoveries: list[float] = []
    async with loaded(gateway) as answers:
        for _ in range(scale(1, 20)):
            first = len(answers)
            await asyncio.to_thread(serving.running.kill)
            await asyncio.sleep(scale(0.5, 2))
            await asyncio.to_thread(serving.running.process.start)
            began = time.monotonic()
            await asyncio.to_thread(gateway.wait_ready, _RECOVERY_SECONDS)
            recovered = time.monotonic()
            recoveries.append(recovered - began)
            await asyncio.sleep(1)  # of answers
            refusals += [one for one in answers[first:] if one.status != 200]
            again = [one.status for one in answers[first:] if one.sent > recovered]
            assert len(again) > _PER_SECOND / 4
            assert {*again} == {200}
    check_answers(answers)
    assert len(refusals) > _PER_SECOND / 8
    assert {one.status for one in refusals} == {503}
    assert max(one.seconds for one in refusals) < _REFUSAL_SECONDS
    report(
        "killed",
        kills=len(recoveries),
        requests=len(answers),
        refused=len(refusals),
        longest_refusal_ms=round(max(one.seconds for one in refusals) * 1e3, 1),
        longest_answer_ms=round(max(one.seconds for one in answers) * 1e3, 1),
        longest_recovery_seconds=round(max(recoveries), 2),
    )


async def test_a_stopped_triton_costs_clients_a_second_at_most_and_comes_back_by_itself(
    serving: Serving, gateway: RunningGateway
) -> None:
    triton, process = serving.running.process, gateway.process.server
    async with loaded(gateway) as answers:
        descriptors = process.num_fds()
        triton.signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            await asyncio.to_thread(wait_until, lambda: not gateway.ready(), 5, "not ready")
            known = time.monotonic()
            await asyncio.sleep(scale(2, 30))
            descriptors = process.num_fds() - descriptors
        finally:
            continued = time.monotonic()
            triton.signal(signal.SIGCONT)
        await asyncio.to_thread(gateway.wait_ready, _RECOVERY_SECONDS)
        recovered = time.monotonic()
        await asyncio.sleep(1)  # of answers
    check_answers(answers)
    late = known + _REFUSAL_SECONDS
    assert sum(one.sent < known and one.received > late for one in answers) <= _MOST_IN_HAND
    refused = [one for one in answers if known < one.sent < continued]
    assert len(refused) > _PER_SECOND * (continued - known) / 4
    assert {one.status for one in refused} == {503}
    assert max(one.seconds for one in refused) < _REFUSAL_SECONDS
    again = [one for one in answers if one.sent > recovered]
    assert len(again) > _PER_SECOND / 4
    assert {one.status for one in again} == {200}
    assert descriptors < _MOST_DESCRIPTORS
    report(
        "stopped",
        requests=len(answers),
        stopped_seconds=round(continued - stopped, 1),
        known_after_seconds=round(known - stopped, 2),
        refused=len(refused),
        longest_refusal_ms=round(max(one.seconds for one in refused) * 1e3, 1),
        longest_answer_ms=round(max(one.seconds for one in answers) * 1e3, 1),
        recovered_after_seconds=round(recovered - continued, 2),
        descriptors_gained=descriptors,
    )


async def test_sigterm_during_a_load_leaves_what_served_and_the_load_converges(
    serving: Serving, gateway: RunningGateway
) -> None:
    candidate, ends, recoveries = serving.package(2), [], []
    async with loaded(gateway) as answers:
        for round_ in range(scale(1, 12)):
            lost = await _end_while_it_loads(serving, candidate, after_seconds=round_ * 0.15)
            assert serving.persisted == ((1,) if lost else (1, 2))
            ends.append(lost)
            await asyncio.to_thread(serving.running.process.start)
            began = time.monotonic()
            assert serving.ready == serving.persisted
            await asyncio.to_thread(gateway.wait_ready, _RECOVERY_SECONDS)
            recoveries.append(time.monotonic() - began)
            assert (await asyncio.to_thread(serving.load, candidate)).ready
            assert serving.ready == serving.persisted == (1, 2)
            await asyncio.to_thread(_retire, serving)
    check_answers(answers)
    assert answers[-1].status == 200
    report(
        "sigterm",
        rounds=len(ends),
        requests=len(answers),
        refused=sum(one.status != 200 for one in answers),
        longest_answer_ms=round(max(one.seconds for one in answers) * 1e3, 1),
        loads_that_were_lost=sum(ends),
        longest_recovery_seconds=round(max(recoveries), 2),
    )


async def _end_while_it_loads(
    serving: Serving, candidate: PackagedVersion, *, after_seconds: float
) -> bool:
    """Send SIGTERM so long after a load has begun; whether the load came to nothing."""
    running: RunningTriton = serving.running
    loading = asyncio.create_task(asyncio.to_thread(serving.load, candidate, timeout_s=2))
    await asyncio.to_thread(wait_until, lambda: 2 in workers(running), 20, "version 2 is loading")
    await asyncio.sleep(after_seconds)
    assert after_seconds or not loading.done()
    running.process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.process.wait) == 0
    state = (await asyncio.gather(loading, return_exceptions=True))[0]
    if isinstance(state, ServingState):
        return not state.ready
    # What the run of a pipeline ends with says what there will be again.
    assert isinstance(state, TritonUnreachable), state
    assert "What it served before it serves again" in str(state)
    return True


def _retire(serving: Serving) -> None:
    retire(DEFAULT_MODEL, [1], triton=serving.triton, repository=serving.repository)
