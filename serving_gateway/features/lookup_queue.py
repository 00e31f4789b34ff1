"""Concurrent look-ups of the same features share one read of the store.

There is one read at a time for the same features, so that a store that hangs holds one of its
threads, however many look-ups arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from sys import getsizeof
from typing import Any, Final, TypeAlias

from serving_gateway.batching import Batch, Batcher, BatchItem, ByteBudget
from serving_gateway.errors import DeadlineExceeded, FeaturesUnavailable, GatewayError, Overloaded
from serving_gateway.features.circuit_breaker import CircuitBreaker
from serving_gateway.features.types import (
    EntityKey,
    EntityOutcome,
    FeatureStore,
    InvalidEntityIds,
    LookupDone,
    LookupRequest,
    LookupResult,
    ServiceUnusable,
)
from serving_gateway.telemetry.counters import LookupCounts

log = logging.getLogger(__name__)

FeatureSet: TypeAlias = tuple[str, tuple[str, ...], frozenset[str], tuple[str, ...]]
"""Feature service, names in the order of the values, those that may be null, and the keys."""

MAX_ROWS: Final = 256
"""Most ids in one read."""
MAX_QUEUED: Final = 4096
"""Most look-ups waiting for the same features; more are refused."""
MAX_BYTES: Final = 4_194_304
"""Most bytes that waiting look-ups hold."""
_ITEM_BYTES: Final = 512
"""Bytes held by a waiting look-up besides its ids."""


class _Lookup:
    """A look-up in progress, which ends once; a large one is read in parts."""

    __slots__ = ("_counts", "_done", "_results", "_seconds", "is_finished", "pending")

    def __init__(self, done: LookupDone, counts: LookupCounts, rows: int, seconds: float) -> None:
        self._done = done
        self._counts = counts
        self._seconds = seconds
        self._results: list[Any] = [None] * rows
        self.pending = 0
        """Parts without results."""
        self.is_finished = False

    def receive(self, start: int, outcomes: list[EntityOutcome]) -> None:
        """Take the outcomes of the ids from position `start` on."""
        statuses = self._counts.by_status
        for at, outcome in enumerate(outcomes, start):
            if isinstance(outcome, LookupResult):
                statuses[outcome.status] += 1
            elif isinstance(outcome, InvalidEntityIds):
                self.end(InvalidEntityIds(at, outcome.why, outcome.key))
                return
            else:
                self.end(outcome)
                return
        self._results[start : start + len(outcomes)] = outcomes
        self.pending -= 1
        if not self.pending:
            self._counts.answered += 1
            self.end(self._results)

    def end(self, outcome: list[LookupResult] | GatewayError) -> None:
        """End it, unless another part has failed already."""
        if self.is_finished:
            return
        self.is_finished = True
        if isinstance(outcome, DeadlineExceeded):
            self._counts.timed_out += 1
            outcome = FeaturesUnavailable(
                f"The feature store did not answer within {self._seconds:g} s."
            )
        try:
            self._done(outcome)
        except Exception:
            # Other look-ups wait for the same read.
            log.exception("the caller of a look-up failed")


class _Part(BatchItem):
    """The ids of a look-up from position `start` on."""

    __slots__ = ("ids", "lookup", "start")

    def __init__(
        self, lookup: _Lookup, ids: Sequence[EntityKey], start: int, deadline: float
    ) -> None:
        super().__init__(True, len(ids), _ITEM_BYTES + sum(map(_size, ids)), deadline)
        self.lookup = lookup
        self.ids = ids
        self.start = start

    def fail(self, error: GatewayError) -> None:
        """End without results."""
        self.lookup.end(error)


def _size(entity: EntityKey) -> int:
    return getsizeof(entity) + (sum(map(getsizeof, entity)) if type(entity) is tuple else 0)


class LookupQueue:
    """The look-ups of one set of features, each of which waits for `seconds` at most.

    The breaker, which the queues of a service share, learns the outcome of each read.
    """

    def __init__(
        self,
        store: FeatureStore,
        features: FeatureSet,
        breaker: CircuitBreaker,
        counts: LookupCounts,
        seconds: float,
    ) -> None:
        self._store = store
        self._features = features
        self.breaker = breaker
        self._counts = counts
        self._limit = seconds
        self._loop = asyncio.get_running_loop()
        self._overdue_at = 0.0
        self._overdue_timer: asyncio.TimerHandle | None = None
        self._is_late = False
        self._batcher: Batcher[_Part] = Batcher(
            self._start,
            f"the feature store for {features[0]}",
            max_rows=MAX_ROWS,
            max_in_flight=1,
            max_queued=MAX_QUEUED,
            budget=ByteBudget(MAX_BYTES),
        )

    @property
    def is_idle(self) -> bool:
        """Whether no look-up waits and no read is under way."""
        return self._batcher.is_idle

    def look_up(self, ids: Sequence[EntityKey], done: LookupDone) -> None:
        """Queue a look-up; `Overloaded`, without calling `done`, when too many wait already."""
        lookup = _Lookup(done, self._counts, len(ids), self._limit)
        deadline = self._loop.time() + self._limit
        try:
            for start in range(0, len(ids), MAX_ROWS):
                lookup.pending += 1
                part = ids[start : start + MAX_ROWS]
                self._batcher.submit(_Part(lookup, part, start, deadline))
        except Overloaded:
            lookup.is_finished = True
            raise

    def close(self, error: GatewayError) -> None:
        """Fail everything that waits or is being read."""
        self._batcher.close(error)
        if self._overdue_timer is not None:
            self._overdue_timer.cancel()

    def abandon(self, *, overdue: bool = False) -> bool:  # noqa: ARG002 -- a read's limit differs
        """Note that nothing waits for the read now; no other one begins until the store returns."""
        if self._overdue_timer is None:
            self._overdue_timer = self._loop.call_at(self._overdue_at, self._on_overdue)
        return False

    def _start(self, batch: Batch[_Part], _: Batcher[_Part]) -> None:
        batch.call = self
        self._is_late = False
        waiting = [entity for part in batch.items if not part.is_finished for entity in part.ids]
        ids = [*dict.fromkeys(waiting)]
        self._overdue_at = self._loop.time() + self._limit
        self._counts.reads += 1
        self._counts.rows_read += len(ids)
        service, names, nullable, keys = self._features
        request = LookupRequest(service, names, ids, nullable, keys)
        self._store.read(request, partial(self._on_read, batch, ids))

    def _on_overdue(self) -> None:
        """Count an overdue read once per limit, so that a hanging one opens the circuit breaker."""
        self._counts.failed_reads += not self._is_late
        self._is_late = True
        self.breaker.record_failure(f"It did not answer within {self._limit:g} s.")
        self._overdue_timer = self._loop.call_later(self._limit, self._on_overdue)

    def _on_read(
        self,
        batch: Batch[_Part],
        ids: Sequence[EntityKey],
        outcome: list[EntityOutcome] | GatewayError,
    ) -> None:
        if self._overdue_timer is not None:
            self._overdue_timer.cancel()
            self._overdue_timer = None
        if not self._is_late:
            self._inform_breaker(outcome)
        if isinstance(outcome, GatewayError):
            self._batcher.fail(batch, outcome)
            return
        # First, so that the store works on the next read while this one is delivered.
        self._batcher.complete(batch)
        by_id: dict[Any, EntityOutcome] = dict(zip(ids, outcome, strict=True))
        with Batcher.gather():  # their inferences too
            for part in batch.items:
                if not part.is_finished:
                    part.is_finished = True
                    part.lookup.receive(part.start, [by_id[entity] for entity in part.ids])

    def _inform_breaker(self, outcome: list[EntityOutcome] | GatewayError) -> None:
        if not isinstance(outcome, GatewayError):
            self.breaker.record_success()
        elif isinstance(outcome, FeaturesUnavailable) and not isinstance(outcome, ServiceUnusable):
            self._counts.failed_reads += 1
            self.breaker.record_failure(outcome.message)
