"""Features of entities, looked up in an online store on the way to a prediction.

Pure of any store: what it asks is a `FeatureStore`. Nobody waits longer than the limit, and a
store that fails or hangs is not asked again for a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.batches import Batches, Overdue
from serving_gateway.features.breaker import Breaker, State
from serving_gateway.features.types import (
    FeatureStore,
    Found,
    check_ids,
)
from serving_gateway.telemetry.counters import LookupCounts

log = logging.getLogger(__name__)

_PREPARE_SECONDS: Final = 5.0
"""Longest that anybody waits for a service to be looked up ahead of its first read."""


class FeatureReader:
    """Looks features up for the data plane.

    Args:
        store: where they are.
        limit_seconds: longest wait of a look-up.
        max_rows: most different ids in one read.
        max_queued: most ids waiting for the same features; more look-ups are refused.
        failures: so many failed or overdue reads in a row, and the store is left alone.
        open_seconds: how long, before one look-up tries it again.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        limit_seconds: float = 0.1,
        max_rows: int = 256,
        max_queued: int = 4096,
        failures: int = 5,
        open_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._limit = limit_seconds
        self._breaker = Breaker(
            "the feature store",
            failures=failures,
            open_seconds=open_seconds,
            probe_seconds=2 * limit_seconds,
        )
        self.counts = LookupCounts()
        self._preparing: set[asyncio.Task[None]] = set()
        self._batches = Batches(
            store,
            self._breaker,
            self.counts,
            limit_seconds=limit_seconds,
            max_rows=max_rows,
            max_queued=max_queued,
        )

    @property
    def state(self) -> State:
        """Of the circuit breaker."""
        return self._breaker.state

    @property
    def skipped(self) -> bool:
        """Whether the store is not asked for now."""
        return self.state is not State.CLOSED

    @property
    def opened(self) -> int:
        """How often the breaker opened since the start."""
        return self._breaker.opened

    async def prepare(self, service: str) -> None:
        """Look a service up ahead of its first read, so that no look-up has to wait for that.

        Returns once it is, or after a few seconds: what fails is tried again by look-ups, and
        nothing depends on it (I9).
        """
        try:
            async with asyncio.timeout(_PREPARE_SECONDS):
                await self._store.prepare(service)
        except TimeoutError:
            log.warning("a feature service is still being looked up", extra={"service": service})
        except Exception:
            log.exception("a feature service was not looked up", extra={"service": service})

    def expect(self, services: Iterable[str]) -> None:
        """Have services looked up in the background."""
        for service in services:
            task = asyncio.get_running_loop().create_task(self.prepare(service))
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    def look_up(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str],
        done: Callable[[list[Found] | GatewayError], None],
    ) -> None:
        """Shim until the callback reader lands."""

        async def run() -> None:
            try:
                done(await self.look_up_async(service, names, ids, nullable))
            except GatewayError as error:
                done(error)

        task = asyncio.get_running_loop().create_task(run())
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def look_up_async(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str] = frozenset(),
    ) -> list[Found]:
        """Look up these features of each id: one `Found` per id, in that order.

        Those named in `nullable` may be null.

        Raises:
            InvalidEntityIds: an id of a wrong type; `field` says which.
            FeaturesUnavailable: no answer within the limit, or none to be expected.
        """
        check_ids(ids)
        if not ids:
            return []
        counts = self.counts
        counts.look_ups += 1
        if not self._breaker.admit():
            counts.refused += 1
            raise FeaturesUnavailable(
                f"The feature store is not asked for now: {self._breaker.reason}"
            )
        parts = self._batches.submit(service, names, ids, nullable)
        try:
            if len(parts) == 1:
                found = await parts[0]
            else:
                found = list(chain.from_iterable(await asyncio.gather(*parts)))
        except Overdue:
            counts.timed_out += 1
            raise
        counts.answered += 1
        for one in found:
            counts.by_status[one.status] += 1
        return found

    async def aclose(self) -> None:
        """Fail what waits, and close the store."""
        for task in self._preparing:
            task.cancel()
        await asyncio.gather(*self._preparing, return_exceptions=True)
        await self._batches.aclose()
        await self._store.aclose()
