"""Asks Triton whether the routed versions are READY: one prober for all models of a replica.

A version that answers requests needs no probe. The others share a budget, so that a thousand
idle models cost Triton and this process as little as fifty: urgent versions first (of the default
model, with requests lately, or in doubt), the idle ones in turn with what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from serving_gateway.inference.readiness import Observation

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.1
_PER_SECOND: Final = 50
_FRESH_SECONDS: Final = 1.0
"""How recent an answer must be for its version to need no probe."""
_SAME_MOMENT_SECONDS: Final = 0.005
_FOR_IDLE: Final = 0.2
"""Share of the budget that the idle versions get however many are urgent."""


class Probed(Protocol):
    """A version that can be probed."""

    def observation(self) -> Observation:
        """What is known of it."""

    async def probe(self) -> None:
        """Ask Triton now and note the answer."""


Versions = Callable[[], Iterable[tuple[Probed, bool]]]
"""All routed versions at this moment, and whether each is urgent."""


class Prober:
    """Probes the routed versions of all models.

    Args:
        interval: seconds between two probes of one version, where the budget allows that.
        per_second: the budget: most probes in a second.
    """

    def __init__(self, *, interval: float, per_second: int = _PER_SECOND) -> None:
        self._interval = interval
        self._per_second = per_second
        self._asked_at: dict[Probed, float] = {}
        self._probed_at: dict[Probed, float] = {}
        self._unanswered: set[Probed] = set()
        self._under_way: dict[Probed, asyncio.Task[None]] = {}
        self._wanted: dict[Probed, None] = {}
        self._woken = asyncio.Event()
        self._budget = 0.0
        self._earned_at = 0.0

    def wake(self, versions: Iterable[Probed]) -> None:
        """Probe these now, unless that happened a moment ago: an inference has failed."""
        self._wanted.update(dict.fromkeys(versions))
        self._woken.set()

    async def run(self, versions: Versions) -> None:
        """Probe until cancelled."""
        listed_at = -1.0
        urgent: Iterator[Probed] = iter(())
        idle: Iterator[Probed] = iter(())
        try:
            while True:
                now = time.monotonic()
                self._earn(now)
                self._probe_woken(now)
                if now - listed_at >= min(1.0, self._interval):
                    urgent, idle = self._listed(versions())
                    listed_at = now
                kept = self._budget * _FOR_IDLE
                self._probe_some(urgent, now, kept)
                self._probe_some(idle, now, 0)
                self._probe_some(urgent, now, 0)
                await self._pause()
        finally:
            for task in self._under_way.values():
                task.cancel()

    def _earn(self, now: float) -> None:
        tick = self._per_second * _TICK_SECONDS
        earned = (now - self._earned_at) * self._per_second
        self._budget = min(self._budget + earned, max(1.0, tick))
        self._earned_at = now

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TICK_SECONDS):
                await self._woken.wait()
                # At once, but not for each of a thousand failures in the same moment.
                await asyncio.sleep(_TICK_SECONDS / 10)

    def _probe_woken(self, now: float) -> None:
        self._woken.clear()
        wanted, self._wanted = self._wanted, {}
        for version in wanted:
            if now - self._asked_at.get(version, 0) >= _TICK_SECONDS:
                self._start(version, now)

    def _listed(
        self, versions: Iterable[tuple[Probed, bool]]
    ) -> tuple[Iterator[Probed], Iterator[Probed]]:
        """The versions that are due, those that wait the longest first."""
        found: dict[Probed, bool] = {}
        for version, is_urgent in versions:
            found[version] = is_urgent or found.get(version, False)
        self._asked_at = {one: self._asked_at.get(one, 0.0) for one in found}
        self._probed_at = {one: self._probed_at.get(one, 0.0) for one in found}
        self._unanswered &= found.keys()
        due: tuple[list[Probed], list[Probed]] = ([], [])
        for version in sorted(found, key=self._asked_at.__getitem__):
            in_doubt = version in self._unanswered or not version.observation().ready
            due[0 if found[version] or in_doubt else 1].append(version)
        return iter(due[0]), iter(due[1])

    def _probe_some(self, versions: Iterator[Probed], now: float, kept: float) -> None:
        """Probe what is due, until only `kept` of the budget is left."""
        while self._budget - kept >= 1:
            version = next(versions, None)
            if version is None:
                return
            due = now - self._asked_at.get(version, 0) >= self._interval
            if due and not self._answers_requests(version, now):
                self._start(version, now)

    def _answers_requests(self, version: Probed, now: float) -> bool:
        """Whether the version was confirmed within the last second, and not by a probe."""
        age = version.observation().age_seconds
        return (
            age is not None
            and age < _FRESH_SECONDS
            and now - age > self._probed_at.get(version, 0) + _SAME_MOMENT_SECONDS
        )

    def _start(self, version: Probed, now: float) -> None:
        if version in self._under_way:
            return
        self._budget -= 1
        self._asked_at[version] = now
        self._under_way[version] = task = asyncio.create_task(self._probe(version))
        task.add_done_callback(lambda _: self._under_way.pop(version, None))

    async def _probe(self, version: Probed) -> None:
        try:
            await version.probe()
        except Exception:
            log.exception("a probe failed on a bug")
        self._probed_at[version] = now = time.monotonic()
        age = version.observation().age_seconds
        if age is not None and now - age >= self._asked_at.get(version, now):
            self._unanswered.discard(version)
        else:
            self._unanswered.add(version)
