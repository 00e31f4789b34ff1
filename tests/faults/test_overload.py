"""Three times the requests that a model can answer: the rest is refused at once, and waits nowhere.

The model takes a matrix product for each request, which go alone, so that a small load is three
times too much for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.faults.scale import report, scale
from tests.support.footprint import MIB, Memory, footprint
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.load import Answer, Load
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import run_triton

_QUEUED: Final = 16
_CLIENTS: Final = 6 * _QUEUED
"""More than can wait, so that no client's question is late because others wait."""
_TIMES: Final = 3
_DEADLINE_SECONDS: Final = 5.0
"""Of a request, by the gateway's settings."""
_MOST_MIB: Final = 10.0


@pytest.fixture
def gateway(repository: Path, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway before a model that is slow, with a queue of less than its requests a second."""
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1, rounds=1)})
    env = {"GATEWAY_MAX_QUEUED": str(_QUEUED), "GATEWAY_MAX_BATCH_ROWS": "1"}
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
    ):
        gateway.routed(1)
        yield gateway


async def test_overload_is_shed_at_once_and_what_is_accepted_is_answered_in_time(
    gateway: RunningGateway,
) -> None:
    capacity = await _capacity(gateway)
    process = gateway.process.server
    before, memory, seconds = footprint(process), Memory(process), scale(3.0, 60.0)
    began = time.monotonic()
    with memory.watched():
        async with Load(gateway.url, _CLIENTS, per_second=capacity * _TIMES) as load:
            await asyncio.sleep(seconds)
    took = time.monotonic() - began
    after, answers = footprint(process), load.answers
    assert {one.status for one in answers} == {200, 503}
    accepted = [one for one in answers if one.status == 200]
    refused = [one for one in answers if one.status == 503]
    assert {one.retry_after for one in refused} == {"1"}
    assert len(answers) > capacity * took * 1.5, "it was no overload"
    assert len(refused) > len(answers) / 4
    # Refusing takes next to nothing from those that are answered.
    assert len(accepted) > capacity * took / 4
    assert max(one.seconds for one in accepted) < _DEADLINE_SECONDS
    assert median(one.seconds for one in refused) < median(one.seconds for one in accepted) / 2
    assert memory.highest - before.resident < _MOST_MIB * MIB
    assert gateway.predict().status_code == 200
    report(
        "overload",
        requests=len(answers),
        capacity_per_second=round(capacity),
        asked_per_second=round(len(answers) / took),
        accepted_per_second=round(len(accepted) / took),
        accepted_ms=_percentiles(accepted),
        refused_ms=_percentiles(refused),
        longest_answer_ms=round(max(one.seconds for one in answers) * 1e3, 1),
        queued_at_most=_QUEUED,
        grown_mib=round((after.resident - before.resident) / MIB, 1),
        peak_mib=round((memory.highest - before.resident) / MIB, 1),
    )


async def _capacity(gateway: RunningGateway) -> float:
    """Requests a second that are answered where as many ask as can be served."""
    async with Load(gateway.url, 8) as load:
        await asyncio.sleep(1)
        began, before = time.monotonic(), len(load.answers)
        await asyncio.sleep(scale(2.0, 10.0))
        capacity = (len(load.answers) - before) / (time.monotonic() - began)
    assert load.failed == []
    return capacity


def _percentiles(answers: Sequence[Answer]) -> dict[str, float]:
    waits = sorted(one.seconds for one in answers)
    return {
        "p50": round(waits[len(waits) // 2] * 1e3, 1),
        "p99": round(waits[int(len(waits) * 0.99)] * 1e3, 1),
    }
