"""Features of entities, looked up in an online store on the way to a prediction.

Knows a `FeatureStore`, but no particular one. A look-up is answered within its limit, and a
feature service that fails or hangs is left alone for a moment; the others are not affected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from serving_gateway.errors import FeaturesUnavailable, Overloaded
from serving_gateway.features.circuit_breaker import CircuitBreaker
from serving_gateway.features.lookup_queue import LookupQueue
from serving_gateway.features.types import FeatureStore, LookupDone
from serving_gateway.telemetry.counters import LookupCounts

log = logging.getLogger(__name__)

_MAX_IDLE_QUEUES: Final = 256
"""Queues kept for features that are not looked up at the moment."""


class FeatureReader:
    """Looks features up for predictions.

    Args:
        store: where they are.
        limit_seconds: longest wait of a look-up.
        prepare_seconds: longest wait of a reload for definitions.
        failures: so many failed or overdue reads in a row, and a service is left alone.
        open_seconds: how long, before one look-up tries it again.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        limit_seconds: float = 0.1,
        prepare_seconds: float = 2.0,
        failures: int = 5,
        open_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._limit = limit_seconds
        self._prepare_seconds = prepare_seconds
        self._failures = failures
        self._open_seconds = open_seconds
        self.counts = LookupCounts()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._queues: dict[tuple[str, tuple[str, ...], frozenset[str]], LookupQueue] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._is_prepare_overdue = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def skipped_services(self) -> list[str]:
        """The feature services that are not read because they failed several times in a row."""
        return [service for service, one in self._breakers.items() if not one.is_closed]

    async def prepare(self, *services: str) -> None:
        """Look services up ahead of their first read, so that no look-up has to wait for that.

        Returns once it is done, or after `prepare_seconds`: it then goes on in the background,
        look-ups try again what failed, and nothing depends on it (I9). While one is overdue,
        the next ones do not wait at all. Without services there is no limit but the caller's.
        """
        task = self._prepare_in_background(services)
        if not self._is_prepare_overdue:
            limit = self._prepare_seconds if services else None
            done, _ = await asyncio.wait([task], timeout=limit)
            self._is_prepare_overdue = not done
            if not done:
                log.warning("the feature store is still being opened", extra={"services": services})

    def expect(self, services: Iterable[str]) -> None:
        """Have services looked up in the background."""
        self._prepare_in_background(services)

    def look_up(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str],
        done: LookupDone,
    ) -> None:
        """Look features up; never raises and never calls back synchronously.

        Args:
            service: the feature service.
            names: its features, in the order of the results' values.
            ids: the entities, at least one.
            nullable: those of the names whose values may be null.
            done: gets one result per id, in that order; or `InvalidEntityIds` (its `field` says
                which), or `FeaturesUnavailable` when there is no answer within the limit, or none
                can be expected.
        """
        # Kept: to ask for it costs a system call, and this is once for each prediction.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self.counts.look_ups += 1
        breaker = self._breaker(service)
        try:
            if breaker.admit():
                self._queue(service, names, nullable).look_up(ids, done)
                return
            refusal = f"Feature service {service} is not read for now: {breaker.reason}"
            error = FeaturesUnavailable(refusal)
        except Overloaded as overload:
            error = FeaturesUnavailable(overload.message, code="too_many_look_ups")
        self.counts.refused += 1
        loop.call_soon(done, error)

    async def aclose(self) -> None:
        """Fail what waits, and close the store."""
        for task in self._preparing:
            task.cancel()
        await asyncio.gather(*self._preparing, return_exceptions=True)
        for queue in self._queues.values():
            queue.close(FeaturesUnavailable("The gateway is ending."))
        await self._store.aclose()

    def _breaker(self, service: str) -> CircuitBreaker:
        breaker = self._breakers.get(service)
        if breaker is None:
            breaker = self._breakers[service] = CircuitBreaker(
                f"feature service {service}",
                failures=self._failures,
                open_seconds=self._open_seconds,
                probe_seconds=2 * self._limit,
            )
        return breaker

    def _queue(self, service: str, names: tuple[str, ...], nullable: frozenset[str]) -> LookupQueue:
        key = (service, names, nullable)
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= _MAX_IDLE_QUEUES:
                self._queues = {key: one for key, one in self._queues.items() if not one.is_idle}
            queue = self._queues[key] = LookupQueue(
                self._store, key, self._breaker(service), self.counts, self._limit
            )
        return queue

    def _prepare_in_background(self, services: Iterable[str]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._prepare(*services))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        return task

    async def _prepare(self, *services: str) -> None:
        try:
            await self._store.prepare(*services)
        except Exception:
            log.exception("feature services were not looked up", extra={"services": services})
        self._is_prepare_overdue = False
