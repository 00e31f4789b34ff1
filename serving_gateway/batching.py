"""The micro-batcher: concurrent requests for one destination share one call to it.

An idle destination is called immediately, so a lone request never waits for others. Once the
maximum number of calls is in flight, requests queue up, and leave together as soon as one of the
calls returns. The queue is bounded in requests and in bytes; refusing costs a comparison.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, cast

from serving_gateway.errors import DeadlineExceeded, GatewayError, Overloaded

_COMPACT_AFTER: Final = 64
"""Abandoned items that a queue may hold before it is compacted."""
_EXPIRY_STEP: Final = 0.01
"""Least seconds between two checks for overdue items, to limit their number in an outage."""


@dataclass(slots=True, eq=False)
class ByteBudget:
    """Bytes held for clients: at most `limit` across everything that shares the budget."""

    limit: int
    held: int = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; return False, and reserve nothing, when they do not fit."""
        if self.held + size > self.limit:
            return False
        self.held += size
        return True

    def release(self, size: int) -> None:
        """Return bytes that were taken."""
        self.held -= size


class BatchItem:
    """One request's rows on their way to a batched call. Subclasses deliver results and errors.

    Items with equal `key`s may share a call; an item whose key is None never does. `size` is in
    bytes, `deadline` in event loop time. `is_finished` is set by a result, an error or `abandon`.
    """

    __slots__ = ("batcher", "deadline", "is_finished", "key", "rows", "size")

    def __init__(self, key: object, rows: int, size: int, deadline: float) -> None:
        self.key: object = key
        self.rows = rows
        self.size = size
        self.deadline = deadline
        self.is_finished = False
        self.batcher: Batcher[Any] | None = None
        """The batcher whose queue it is in; None before and after."""

    def abandon(self) -> None:
        """Leave: the result is no longer needed."""
        self.is_finished = True
        if self.batcher is not None:
            self.batcher.discard(self)

    def fail(self, error: GatewayError) -> None:
        """End with an error; called at most once, and never after `is_finished`."""
        raise NotImplementedError


class Call(Protocol):
    """A call in flight."""

    def abandon(self, *, overdue: bool = False) -> bool:
        """Drop the call, which may be `overdue`; return whether another may start in its place."""


ItemT = TypeVar("ItemT", bound=BatchItem)


@dataclass(slots=True, eq=False)
class Batch(Generic[ItemT]):
    """The items of one call."""

    items: list[ItemT]
    rows: int
    call: Call | None = None


class Batcher(Generic[ItemT]):
    """The queue in front of one destination.

    `start` begins the call of a batch and sets `batch.call`; each call ends with exactly one of
    `complete`, `fail` and `split`. Items are merged up to `max_rows`; a larger item goes alone. The
    first item waits `gather_seconds` for more. Queued items hold bytes of `budget`, which other
    queues may share.
    """

    _gathering: ClassVar[set[Batcher[Any]] | None] = None

    def __init__(
        self,
        start: Callable[[Batch[ItemT], Batcher[ItemT]], None],
        name: str,
        *,
        max_rows: int,
        max_in_flight: int,
        max_queued: int,
        budget: ByteBudget,
        gather_seconds: float = 0.0,
    ) -> None:
        self.max_rows = max_rows
        self._start = start
        self._name = name
        self._max_in_flight = max_in_flight
        self._max_queued = max_queued
        self._budget = budget
        self._gather_seconds = gather_seconds
        self._queued = self._queued_rows = 0
        self._queue: deque[ItemT] = deque()
        self._split: deque[list[ItemT]] = deque()
        self._running: set[Batch[ItemT]] = set()
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._expires_at = inf
        self._gather_timer: asyncio.TimerHandle | None = None

    @staticmethod
    @contextmanager
    def gather() -> Iterator[None]:
        """Let items that are submitted in this block leave together, instead of the first alone."""
        batchers: set[Batcher[Any]] = set()
        Batcher._gathering = batchers
        try:
            yield
        finally:
            Batcher._gathering = None
            for batcher in batchers:
                batcher._gather_or_dispatch()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not (self._running or self._queue or self._split)

    def submit(self, item: ItemT) -> None:
        """Queue an item and start what can be started; `Overloaded` when the queue is full."""
        if item.deadline < self._expires_at:
            self._arm(item.deadline)
        is_free = len(self._running) < self._max_in_flight
        if (
            is_free
            and not self._queue
            and not self._split
            and not self._gather_seconds
            and (self._gathering is None or self._budget.held + item.size > self._budget.limit)
        ):
            self._launch([item], item.rows)
            return
        if self._queued >= self._max_queued:
            raise Overloaded(f"{self._queued} requests are already waiting for {self._name}.")
        if not self._budget.take(item.size):
            raise Overloaded(f"Waiting requests hold {self._budget.held} bytes; that is the limit.")
        self._queued += 1
        self._queued_rows += item.rows
        item.batcher = self
        self._queue.append(item)
        if self._gathering is not None:
            self._gathering.add(self)
        elif is_free:
            self._gather_or_dispatch()

    def complete(self, batch: Batch[ItemT]) -> None:
        """End a call whose items have their results; start what is queued."""
        self._running.discard(batch)
        if self._queue or self._split:
            self._gather_or_dispatch()

    def fail(self, batch: Batch[ItemT], error: GatewayError) -> None:
        """End a call that failed for all of its items."""
        self._end(batch.items, error)
        self.complete(batch)

    def split(self, batch: Batch[ItemT], error: GatewayError) -> None:
        """End a call refused for its content: bisect it to find the culprit, which gets `error`."""
        if len(batch.items) == 1:
            self.fail(batch, error)
            return
        items = [item for item in batch.items if not item.is_finished]
        middle = (len(items) + 1) // 2
        self._split.extendleft([items[middle:], items[:middle]])
        self.complete(batch)

    def discard(self, item: BatchItem) -> None:
        """Free the place of a queued item that was abandoned."""
        self._forget(item)
        if len(self._queue) > _COMPACT_AFTER and self._queued < len(self._queue) // 2:
            self._queue = deque([queued for queued in self._queue if not queued.is_finished])

    def refuse_waiting(self, error: GatewayError) -> None:
        """Fail all queued items; calls in flight go on, and later items are accepted."""
        waiting = [*chain(self._queue, *self._split)]
        self._queue.clear()
        self._split.clear()
        self._end(waiting, error)

    def close(self, error: GatewayError) -> None:
        """Fail everything that is queued or in flight."""
        for timer in (self._deadline_timer, self._gather_timer):
            if timer is not None:
                timer.cancel()
        self._deadline_timer = self._gather_timer = None
        for batch in [*self._running]:
            if batch.call is not None:
                batch.call.abandon()
        items = self._items()
        for collection in (self._queue, self._split, self._running):
            collection.clear()
        self._end(items, error)

    def _gather_or_dispatch(self) -> None:
        if not self._gather_seconds or self._split or self._queued_rows >= self.max_rows:
            self._dispatch()
        elif self._queue and self._gather_timer is None:
            loop = asyncio.get_running_loop()
            self._gather_timer = loop.call_later(self._gather_seconds, self._end_gathering)

    def _end_gathering(self) -> None:
        self._gather_timer = None
        self._dispatch()

    def _dispatch(self) -> None:
        """Start calls while items wait and the limit allows."""
        while len(self._running) < self._max_in_flight:
            items = self._next()
            if not items:
                return
            self._launch(items, sum([item.rows for item in items]))

    def _launch(self, items: list[ItemT], rows: int) -> None:
        batch = Batch(items, rows)
        self._running.add(batch)
        self._start(batch, self)

    def _next(self) -> list[ItemT]:
        """Take the items of the next call, dropping those abandoned meanwhile."""
        while self._split:
            items = [item for item in self._split.popleft() if not item.is_finished]
            if items:
                return items
        queue, items, rows = self._queue, [], 0
        while queue:
            item = queue[0]
            if not item.is_finished:
                rows += item.rows
                if items and (item.key is None or item.key != items[0].key or rows > self.max_rows):
                    break
                self._forget(item)
                items.append(item)
            queue.popleft()
        return items

    def _forget(self, item: BatchItem) -> None:
        """Remove an item from the counts of queued items."""
        item.batcher = None
        self._queued -= 1
        self._queued_rows -= item.rows
        self._budget.release(item.size)

    def _items(self) -> list[ItemT]:
        """All items that are queued or in flight; some have ended."""
        running = (batch.items for batch in self._running)
        return [*chain(self._queue, *self._split, *running)]

    def _end(self, items: list[ItemT], error: GatewayError) -> None:
        """Fail the items that have not ended."""
        for item in items:
            if not item.is_finished:
                item.is_finished = True
                if item.batcher is not None:
                    self._forget(item)
                item.fail(error)

    def _expire(self) -> None:
        """Fail overdue items. One timer, for the earliest deadline, serves all items."""
        self._deadline_timer = None
        self._expires_at = inf
        now = asyncio.get_running_loop().time()
        late = [item for item in self._items() if item.deadline <= now and not item.is_finished]
        # Removed first: an item that fails may move on to another destination at once.
        if late:
            self._queue = deque([item for item in self._queue if item.deadline > now])
            self._split = deque([[i for i in half if i.deadline > now] for half in self._split])
        for batch in [*self._running]:
            self._drop_overdue(batch, now)
        overdue = DeadlineExceeded(f"There was no answer from {self._name} before the deadline.")
        self._end(late, overdue)
        if self._queue or self._split:
            self._dispatch()
        pending = [item.deadline for item in self._items() if not item.is_finished]
        if pending and self._deadline_timer is None:
            self._arm(max(min(pending), now + _EXPIRY_STEP))

    @staticmethod
    def _placeholder(item: ItemT) -> ItemT:
        """A stand-in for an item that no longer waits for its call."""
        placeholder = BatchItem(item.key, item.rows, 0, item.deadline)
        placeholder.is_finished = True
        return cast(ItemT, placeholder)

    def _drop_overdue(self, batch: Batch[ItemT], now: float) -> None:
        """Drop the overdue items of a call, and the call once no item waits for it."""
        # The late result must not reach an item that went on to another destination.
        batch.items = [
            self._placeholder(item) if item.deadline <= now else item for item in batch.items
        ]
        if all(item.is_finished for item in batch.items):
            overdue = any(item.deadline <= now for item in batch.items)
            if batch.call is None or batch.call.abandon(overdue=overdue):
                self._running.discard(batch)

    def _arm(self, deadline: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._expires_at = deadline
        self._deadline_timer = asyncio.get_running_loop().call_at(deadline, self._expire)
