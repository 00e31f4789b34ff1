"""Asks Triton whether the routed versions are READY: one prober for all models of a replica.

A version that answers requests needs no probe. The others share a budget, so that a thousand idle
models cost Triton and this process as little as fifty: urgent versions first (of the default model,
with recent requests, or in doubt), the idle ones in turn with what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from serving_gateway.inference.version_client import VersionClient

log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.1
_PER_SECOND: Final = 50
_FRESH_SECONDS: Final = 1.0
"""How recent an answer must be for its version to need no probe."""
_SAME_MOMENT_SECONDS: Final = 0.005
_FOR_IDLE: Final = 0.2
"""Share of the budget that the idle versions get however many are urgent."""


@dataclass(slots=True)
class _Probes:
    """The probes of one version."""

    asked_at: float = 0.0
    ended_at: float = 0.0
    is_unanswered: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Prober:
    """Probes each routed version every `interval` seconds, but at most `per_second` in all."""

    interval: float
    per_second: int = _PER_SECOND
    _probes: dict[VersionClient, _Probes] = field(default_factory=dict)
    _wanted: dict[VersionClient, None] = field(default_factory=dict)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _budget: float = 0.0
    _earned_at: float = 0.0

    def wake(self, versions: Iterable[VersionClient]) -> None:
        """Probe these now, unless that happened a moment ago: an inference has failed."""
        self._wanted.update(dict.fromkeys(versions))
        self._woken.set()

    async def run(self, versions: Callable[[], Iterable[tuple[VersionClient, bool]]]) -> None:
        """Probe all routed versions, given with whether each is urgent, until cancelled."""
        listed_at = -1.0
        urgent: Iterator[VersionClient] = iter(())
        idle: Iterator[VersionClient] = iter(())
        try:
            while True:
                now = time.monotonic()
                self._add_budget(now)
                self._probe_woken(now)
                if now - listed_at >= min(1.0, self.interval):
                    urgent, idle = self._by_urgency(versions())
                    listed_at = now
                self._probe_some(urgent, now, self._budget * _FOR_IDLE)
                self._probe_some(idle, now, 0)
                self._probe_some(urgent, now, 0)
                await self._pause()
        finally:
            for probes in self._probes.values():
                if probes.task is not None:
                    probes.task.cancel()

    def _add_budget(self, now: float) -> None:
        tick = self.per_second * _TICK_SECONDS
        earned = (now - self._earned_at) * self.per_second
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
            probes = self._probes.setdefault(version, _Probes())
            if now - probes.asked_at >= _TICK_SECONDS:
                self._start(version, probes, now)

    def _by_urgency(
        self, versions: Iterable[tuple[VersionClient, bool]]
    ) -> tuple[Iterator[VersionClient], Iterator[VersionClient]]:
        """The urgent and the idle versions, those that have waited longest first."""
        urgency: dict[VersionClient, bool] = {}
        for version, is_urgent in versions:
            urgency[version] = is_urgent or urgency.get(version, False)
        self._probes = {client: self._probes.get(client) or _Probes() for client in urgency}
        due: tuple[list[VersionClient], list[VersionClient]] = ([], [])
        for version in sorted(urgency, key=lambda client: self._probes[client].asked_at):
            in_doubt = self._probes[version].is_unanswered or not version.ready
            due[0 if urgency[version] or in_doubt else 1].append(version)
        return iter(due[0]), iter(due[1])

    def _probe_some(self, versions: Iterator[VersionClient], now: float, kept: float) -> None:
        """Probe what is due, until only `kept` of the budget is left."""
        while self._budget - kept >= 1:
            version = next(versions, None)
            if version is None:
                return
            probes, age = self._probes[version], version.age
            # Confirmed within the last second, and not by a probe.
            is_in_use = age < min(_FRESH_SECONDS, now - probes.ended_at - _SAME_MOMENT_SECONDS)
            if now - probes.asked_at >= self.interval and not is_in_use:
                self._start(version, probes, now)

    def _start(self, version: VersionClient, probes: _Probes, now: float) -> None:
        if probes.task is None or probes.task.done():
            self._budget -= 1
            probes.asked_at = now
            probes.task = asyncio.create_task(self._probe(version, probes))

    async def _probe(self, version: VersionClient, probes: _Probes) -> None:
        try:
            await version.probe()
        except Exception:
            log.exception("a probe failed because of a bug")
        probes.ended_at = now = time.monotonic()
        probes.is_unanswered = now - version.age < probes.asked_at
