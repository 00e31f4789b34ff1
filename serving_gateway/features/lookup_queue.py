"""Concurrent look-ups of the same features share one read of the store.

There is one read at a time for the same features: a store that hangs holds one of its threads,
however many look-ups come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from itertools import chain
from sys import getsizeof
from typing import Any, Final, NamedTuple, cast

from serving_gateway.batching import Batch, Batcher, BatchItem, ByteBudget
from serving_gateway.errors import DeadlineExceeded, FeaturesUnavailable, GatewayError, Overloaded
from serving_gateway.features.circuit_breaker import CircuitBreaker
from serving_gateway.features.types import (
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

_ITEM_BYTES: Final = 512
"""Held by a waiting look-up beside its ids."""


class LookupLimits(NamedTuple):
    """Bounds of the look-ups of one set of features."""

    seconds: float
    """Longest wait for an answer."""
    max_rows: int
    """Most ids in one read."""
    max_queued: int
    """Most look-ups waiting."""
    max_bytes: int
    """Most bytes that these hold."""


class Lookup:
    """A look-up under way; a large one is read in parts.

    Args:
        done: gets the results or an error, once.
        counts: counts the outcome.
        seconds: limit, for the error.
    """

    __slots__ = ("_counts", "_done", "_is_finished", "_pending", "_results", "_seconds")

    def __init__(self, done: LookupDone, counts: LookupCounts, seconds: float) -> None:
        self._done = done
        self._counts = counts
        self._seconds = seconds
        self._results: dict[int, list[LookupResult]] = {}
        self._pending = 0
        self._is_finished = False

    def submit(self, queue: LookupQueue, ids: Sequence[int | str], size: int, now: float) -> None:
        """Queue the look-up in parts of `size` ids.

        Raises:
            Overloaded: too many wait already; there will be no results.
        """
        self._pending = -(-len(ids) // size)
        try:
            for start in range(0, len(ids), size):
                part = ids[start : start + size] if self._pending > 1 else ids
                queue.submit(LookupItem(self, part, start, now + self._seconds))
        except Overloaded:
            self._is_finished = True
            raise

    def receive(self, start: int, outcomes: list[EntityOutcome]) -> None:
        """Take the outcomes of one part; the last one ends the look-up."""
        invalid: dict[int, str] = {}
        for at, one in enumerate(outcomes):
            if isinstance(one, LookupResult):
                self._counts.by_status[one.status] += 1
            elif isinstance(one, InvalidEntityIds):
                invalid[start + at] = one.wrong[0]
            else:
                self.fail(one)
                return
        if invalid:
            self.fail(InvalidEntityIds(invalid))
            return
        self._pending -= 1
        self._results[start] = cast(list[LookupResult], outcomes)
        if not self._pending:
            self._counts.answered += 1
            parts = [self._results[one] for one in sorted(self._results)]
            self._end(parts[0] if len(parts) == 1 else [*chain.from_iterable(parts)])

    def fail(self, error: GatewayError) -> None:
        """End with an error, unless another part failed already."""
        if isinstance(error, DeadlineExceeded):
            error = FeaturesUnavailable(
                f"The feature store did not answer within {self._seconds:g} s."
            )
            self._counts.timed_out += not self._is_finished
        self._end(error)

    def _end(self, outcome: list[LookupResult] | GatewayError) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        try:
            self._done(outcome)
        except Exception:
            # Others wait for the same read.
            log.exception("the caller of a look-up failed")


class LookupItem(BatchItem):
    """The ids of a look-up from position `start` on; all of them, unless it is a large one."""

    __slots__ = ("ids", "lookup", "start")

    def __init__(
        self, lookup: Lookup, ids: Sequence[int | str], start: int, deadline: float
    ) -> None:
        super().__init__(True, len(ids), _ITEM_BYTES + sum(map(getsizeof, ids)), deadline)
        self.lookup = lookup
        self.ids = ids
        self.start = start

    def fail(self, error: GatewayError) -> None:
        """End without results."""
        self.lookup.fail(error)


class _Read:
    """One read for the items of a batch; the batcher's `Call`."""

    __slots__ = ("batch", "ids", "is_abandoned", "is_late", "overdue_at", "queue", "timer")

    def __init__(self, batch: Batch[LookupItem], queue: LookupQueue) -> None:
        self.batch = batch
        self.queue = queue
        self.ids: list[int | str] = []
        self.overdue_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.is_abandoned = False
        self.is_late = False

    def abandon(self, *, overdue: bool = False) -> None:  # noqa: ARG002 -- a read's limit differs
        """None of its items waits any more."""
        self.is_abandoned = True
        self.queue.on_abandon(self)


class LookupQueue:
    """The look-ups of one set of features, and the read under way for some of them.

    Args:
        store: what is read.
        feature_set: feature service, names in the order of the values, names that may be null.
        breaker: informed of the outcome of each read.
        counts: counts reads.
        limits: bounds of reads and of the queue.
    """

    def __init__(
        self,
        store: FeatureStore,
        feature_set: tuple[str, tuple[str, ...], frozenset[str]],
        breaker: CircuitBreaker,
        counts: LookupCounts,
        limits: LookupLimits,
    ) -> None:
        self._store = store
        self._feature_set = feature_set
        self._breaker = breaker
        self._counts = counts
        self._limit = limits.seconds
        self._loop = asyncio.get_running_loop()
        self._read: _Read | None = None
        """The one that the store works on, also when none of its items waits any more."""
        self._next: _Read | None = None
        """Starts when the store returns from the read before it."""
        self._batcher: Batcher[LookupItem] = Batcher(
            self._start,
            f"the feature store for {feature_set[0]}",
            max_rows=limits.max_rows,
            max_in_flight=1,
            max_queued=limits.max_queued,
            budget=ByteBudget(limits.max_bytes),
        )
        self.submit = self._batcher.submit

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is read."""
        return self._read is None and self._batcher.is_idle

    def close(self, error: GatewayError) -> None:
        """Fail everything that waits or is being read."""
        self._batcher.close(error)
        if self._read is not None and self._read.timer is not None:
            self._read.timer.cancel()

    def on_abandon(self, read: _Read) -> None:
        """Drop a read that has not started; wait for the limit of one that has."""
        if read is self._next:
            self._next = None
        elif read is self._read:
            read.timer = self._loop.call_at(read.overdue_at, self._on_overdue, read)

    def _start(self, batch: Batch[LookupItem], _: Batcher[LookupItem]) -> None:
        read = batch.call = _Read(batch, self)
        if self._read is None:
            self._begin(read)
        else:
            self._next = read

    def _begin(self, read: _Read) -> None:
        self._read, self._next = read, None
        ids = [one for item in read.batch.items if not item.is_finished for one in item.ids]
        read.ids = [*dict.fromkeys(ids)]
        read.overdue_at = self._loop.time() + self._limit
        self._counts.reads += 1
        self._counts.rows_read += len(read.ids)
        service, names, nullable = self._feature_set
        request = LookupRequest(service, names, read.ids, nullable)
        self._store.read(request, partial(self._on_read, read))

    def _on_overdue(self, read: _Read) -> None:
        """Count a read that takes longer than the limit; once more for each further limit.

        So a read that hangs for ever opens the circuit breaker although no other is started.
        """
        if not read.is_late:
            self._counts.failed_reads += 1
        read.is_late = True
        self._breaker.failed(f"It did not answer within {self._limit:g} s.")
        read.timer = self._loop.call_later(self._limit, self._on_overdue, read)

    def _on_read(self, read: _Read, outcome: list[EntityOutcome] | GatewayError) -> None:
        self._read = None
        if read.timer is not None:
            read.timer.cancel()
        if not read.is_late:
            self._inform_breaker(outcome)
        if self._next is not None:
            self._begin(self._next)
        if read.is_abandoned:
            return
        if isinstance(outcome, GatewayError):
            self._batcher.fail(read.batch, outcome)
            return
        # First, so that the store works on the next read during the delivery of this one.
        self._batcher.complete(read.batch)
        by_id: dict[Any, EntityOutcome] = dict(zip(read.ids, outcome, strict=True))
        for item in read.batch.items:
            if not item.is_finished:
                item.is_finished = True
                item.lookup.receive(item.start, [by_id[one] for one in item.ids])

    def _inform_breaker(self, outcome: list[EntityOutcome] | GatewayError) -> None:
        if not isinstance(outcome, GatewayError):
            self._breaker.succeeded()
        elif isinstance(outcome, FeaturesUnavailable) and not isinstance(outcome, ServiceUnusable):
            self._counts.failed_reads += 1
            self._breaker.failed(outcome.message)
