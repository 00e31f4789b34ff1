"""Which versions are probed, and how many at most."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, cast

from serving_gateway.inference.prober import Prober
from tests.support.waiting import eventually


class Version:
    """A version that Triton has READY, unless it hangs."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready
        self.confirmed_at: float | None = None
        self.probes: list[float] = []
        self.hangs = False

    @property
    def age(self) -> float:
        return time.monotonic() - (self.confirmed_at or -math.inf)

    async def probe(self) -> None:
        self.probes.append(time.monotonic())
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self.confirmed_at = time.monotonic()


@contextlib.asynccontextmanager
async def probing(
    versions: Callable[[], Iterable[tuple[Any, bool]]], **options: float
) -> AsyncIterator[Prober]:
    prober = Prober(interval=options.get("interval", 0.05), per_second=int(options.get("rate", 50)))
    task = asyncio.create_task(prober.run(versions))
    try:
        yield prober
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def counts(versions: Iterable[Version]) -> list[int]:
    return [len(one.probes) for one in versions]


async def test_no_more_probes_than_the_budget_and_every_version_in_its_turn() -> None:
    versions = [Version() for _ in range(100)]
    async with probing(lambda: [(one, False) for one in versions], rate=100):
        await asyncio.sleep(2)
    found = counts(versions)
    assert 100 <= sum(found) <= 230
    assert max(found) - min(found) <= 1


async def test_urgent_and_doubtful_versions_go_first_and_idle_ones_are_not_starved() -> None:
    urgent, doubtful = [Version() for _ in range(40)], [Version(ready=False)]
    idle = [Version() for _ in range(200)]
    everything = [*((one, True) for one in urgent), *((one, False) for one in (*doubtful, *idle))]
    async with probing(lambda: everything, rate=100):
        await eventually(lambda: min(counts([*urgent, *doubtful])) >= 3, seconds=20)
    probes = sum(counts([*urgent, *doubtful, *idle]))
    assert probes / 10 <= sum(counts(idle)) <= probes / 2


async def test_a_version_that_answers_requests_is_not_probed() -> None:
    version = Version()
    version.confirmed_at = time.monotonic()
    async with probing(lambda: [(version, True)]):
        for _ in range(20):
            version.confirmed_at = time.monotonic()
            await asyncio.sleep(0.02)
    assert version.probes == []


async def test_an_inference_failure_probes_at_once_but_not_for_each_failure() -> None:
    version, other = Version(), Version()
    async with probing(lambda: [(version, True)], interval=60) as prober:
        await asyncio.sleep(0.2)
        before = len(version.probes)
        woken = time.monotonic()
        for _ in range(50):
            prober.wake(cast(Any, [version, other]))
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
        elapsed = time.monotonic() - woken
    assert version.probes[before] - woken < max(0.08, elapsed / 2)
    assert other.probes
    # 50 failures; each tenth of a second allows one probe.
    assert len(version.probes) - before <= 2 + elapsed / 0.1


async def test_a_version_that_hangs_is_asked_once_and_holds_up_no_other() -> None:
    stuck, other = Version(), Version()
    stuck.hangs = True
    async with probing(lambda: [(stuck, True), (other, True)]):
        await asyncio.sleep(0.5)
    assert len(stuck.probes) == 1
    assert len(other.probes) >= 3
