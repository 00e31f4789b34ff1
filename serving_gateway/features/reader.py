"""Features of entities, looked up in an online store on the way to a prediction.

Knows a `FeatureStore`, but no particular one. A look-up is answered within its limit, and a
feature service that fails or hangs is left alone for a moment; the others are not affected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from serving_gateway.errors import FeaturesUnavailable, GatewayError, Overloaded
from serving_gateway.features.circuit_breaker import CircuitBreaker, CircuitState
from serving_gateway.features.lookup_queue import Lookup, LookupLimits, LookupQueue
from serving_gateway.features.types import FeatureStore, LookupDone, check_ids
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
        max_rows: most different ids in one read.
        max_queued: most look-ups waiting for the same features; more are refused.
        max_bytes: most bytes that these hold.
        failures: so many failed or overdue reads in a row, and a service is left alone.
        open_seconds: how long, before one look-up tries it again.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        limit_seconds: float = 0.1,
        prepare_seconds: float = 2.0,
        max_rows: int = 256,
        max_queued: int = 4096,
        max_bytes: int = 4_194_304,
        failures: int = 5,
        open_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._limits = LookupLimits(limit_seconds, max_rows, max_queued, max_bytes)
        self._prepare_seconds = prepare_seconds
        self._new_breaker: Callable[[str], CircuitBreaker] = lambda service: CircuitBreaker(
            f"feature service {service}",
            failures=failures,
            open_seconds=open_seconds,
            probe_seconds=2 * limit_seconds,
        )
        self.counts = LookupCounts()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._queues: dict[tuple[str, tuple[str, ...], frozenset[str]], LookupQueue] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._is_prepare_overdue = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def skipped_services(self) -> list[str]:
        """The feature services that are not read because they failed several times in a row."""
        return [
            service
            for service, breaker in self._breakers.items()
            if breaker.state is not CircuitState.CLOSED
        ]

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
        for service in services:
            self._prepare_in_background((service,))

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
            ids: the entities.
            nullable: those of the names whose values may be null.
            done: gets one result per id, in that order; or `InvalidEntityIds` (its `field` says
                which), or `FeaturesUnavailable` when there is no answer within the limit, or none
                can be expected.
        """
        # Kept: to ask for it costs a system call, and this is once for each prediction.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self.counts.look_ups += 1
        try:
            check_ids(ids)
            breaker = self._breaker(service)
            if not breaker.admit():
                self.counts.refused += 1
                raise FeaturesUnavailable(
                    f"Feature service {service} is not read for now: {breaker.reason}"
                )
            if not ids:
                loop.call_soon(done, [])
                return
            limits = self._limits
            Lookup(done, self.counts, limits.seconds).submit(
                self._queue(service, names, nullable), ids, limits.max_rows, loop.time()
            )
        except Overloaded as error:
            self.counts.refused += 1
            refused = FeaturesUnavailable(error.message, code="too_many_look_ups")
            loop.call_soon(done, refused)
        except GatewayError as error:
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
            breaker = self._breakers[service] = self._new_breaker(service)
        return breaker

    def _queue(self, service: str, names: tuple[str, ...], nullable: frozenset[str]) -> LookupQueue:
        key = (service, names, nullable)
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= _MAX_IDLE_QUEUES:
                self._queues = {key: one for key, one in self._queues.items() if not one.is_idle}
            queue = self._queues[key] = LookupQueue(
                self._store, key, self._breaker(service), self.counts, self._limits
            )
        return queue

    def _prepare_in_background(self, services: Sequence[str]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._prepare(services))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        return task

    async def _prepare(self, services: Sequence[str]) -> None:
        try:
            await self._store.prepare(*services)
        except Exception:
            log.exception("feature services were not looked up", extra={"services": services})
        self._is_prepare_overdue = False
