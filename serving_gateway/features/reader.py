"""Entity features, looked up in an online store on the way to a prediction.

Knows the interface `FeatureStore`, but no particular store. A look-up is answered within its limit,
and a feature service that fails or hangs is skipped for a while; the others are not affected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from serving_gateway.errors import FeaturesUnavailable, Overloaded
from serving_gateway.features.circuit_breaker import CircuitBreaker
from serving_gateway.features.lookup_queue import FeatureSet, LookupQueue
from serving_gateway.features.types import EntityKey, FeatureStore, LookupDone
from serving_gateway.telemetry.counters import LookupCounts

log = logging.getLogger(__name__)

_MAX_IDLE_QUEUES: Final = 256
"""Queues kept for features that are not looked up at the moment."""


@dataclass(eq=False)
class FeatureReader:
    """Looks features up for predictions.

    A look-up waits at most `limit_seconds`; a reload waits at most `prepare_seconds` for
    definitions. After `failures` failed or overdue reads in a row, a service is skipped for
    `open_seconds`.
    """

    store: FeatureStore
    limit_seconds: float = 0.1
    prepare_seconds: float = 1.0
    failures: int = 5
    open_seconds: float = 1.0
    counts: LookupCounts = field(default_factory=LookupCounts)
    _breakers: dict[str, CircuitBreaker] = field(default_factory=dict)
    _queues: dict[FeatureSet, LookupQueue] = field(default_factory=dict)
    _preparing: set[asyncio.Task[None]] = field(default_factory=set)
    _overdue: asyncio.Task[None] | None = None

    @property
    def skipped_services(self) -> list[str]:
        """The feature services that are not read because they failed several times in a row."""
        return [service for service, breaker in self._breakers.items() if not breaker.is_closed]

    async def prepare(self, *services: str) -> None:
        """Look services up ahead of their first read, so that no look-up has to wait for that.

        Returns once that is done, or after `prepare_seconds`: it then continues in the background,
        look-ups retry what failed, and nothing depends on it (I9). While one call is overdue, the
        next ones do not wait at all. Without services there is no limit but the caller's.
        """
        task = self.expect(services)
        if self._overdue is None or self._overdue.done():
            await asyncio.wait([task], timeout=self.prepare_seconds if services else None)
            if not task.done():
                self._overdue = task
                log.warning("the feature store is still being opened", extra={"services": services})

    def expect(self, services: Iterable[str]) -> asyncio.Task[None]:
        """Have services looked up in the background."""
        task = asyncio.get_running_loop().create_task(self._prepare(*services))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        return task

    def look_up(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[EntityKey],
        nullable: frozenset[str],
        done: LookupDone,
        keys: tuple[str, ...] = (),
    ) -> None:
        """Look features up; never raises and never calls back synchronously.

        `names` are in the order of the results' values, `nullable` those that may be null, `keys`
        those whose ids are named; () for the only key of the service. `done` gets one result per
        entity, in their order; or `InvalidEntityIds`; or `FeaturesUnavailable` within the limit.
        """
        self.counts.look_ups += 1
        features = (service, names, nullable, keys)
        queue = self._queues.get(features) or self._new_queue(features)
        try:
            if queue.breaker.admit():
                queue.look_up(ids, done)
                return
            reason = f"Feature service {service} is not read for now: {queue.breaker.reason}"
            error = FeaturesUnavailable(reason)
        except Overloaded as overload:
            error = FeaturesUnavailable(overload.message, code="too_many_look_ups")
        self.counts.refused += 1
        asyncio.get_running_loop().call_soon(done, error)

    async def aclose(self) -> None:
        """Fail what waits, and close the store."""
        for task in self._preparing:
            task.cancel()
        await asyncio.gather(*self._preparing, return_exceptions=True)
        for queue in self._queues.values():
            queue.close(FeaturesUnavailable("The gateway is ending."))
        await self.store.aclose()

    def _new_queue(self, features: FeatureSet) -> LookupQueue:
        service = features[0]
        if service not in self._breakers:
            self._breakers[service] = CircuitBreaker(
                f"feature service {service}",
                failures=self.failures,
                open_seconds=self.open_seconds,
                probe_seconds=2 * self.limit_seconds,
            )
        if len(self._queues) >= _MAX_IDLE_QUEUES:
            self._queues = {key: idle for key, idle in self._queues.items() if not idle.is_idle}
        queue = LookupQueue(
            self.store, features, self._breakers[service], self.counts, self.limit_seconds
        )
        self._queues[features] = queue
        return queue

    async def _prepare(self, *services: str) -> None:
        try:
            await self.store.prepare(*services)
        except Exception:
            log.exception("feature services were not looked up", extra={"services": services})
