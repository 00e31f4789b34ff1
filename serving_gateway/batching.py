"""The micro-batcher: concurrent requests for one destination share one call to it.

An idle destination is called at once, so a lone request never waits for company. While the few
calls that may be under way are, requests gather, and leave together as soon as one of them
returns. What waits is bounded in requests and in bytes; refusing costs a comparison.
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
"""Abandoned items that may lie in a queue before they are swept out of it."""
_EXPIRY_STEP: Final = 0.01
"""Seconds between two looks for overdue items, so that an outage costs few of them."""


@dataclass(slots=True, eq=False)
class ByteBudget:
    """Bytes held for clients, at most `limit` over everything that shares the budget."""

    limit: int
    held: int = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False, and nothing is reserved, when they do not fit."""
        if self.held + size > self.limit:
            return False
        self.held += size
        return True

    def release(self, size: int) -> None:
        """Return bytes that were taken."""
        self.held -= size


class BatchItem:
    """One request's rows on their way to a batched call. Subclasses deliver results and errors.

    Items with equal `key`s may share a call; None never does. `size` is in bytes, `deadline` a time
    of the event loop. `is_finished`: a result, an error or its owner's departure ended it.
    """

    __slots__ = ("batcher", "deadline", "is_finished", "key", "rows", "size")

    def __init__(self, key: object, rows: int, size: int, deadline: float) -> None:
        self.key: object = key
        self.rows = rows
        self.size = size
        self.deadline = deadline
        self.is_finished = False
        self.batcher: Batcher[Any] | None = None
        """The queue that it waits in; None before and after."""

    def abandon(self) -> None:
        """Leave: the result is of no use any more."""
        self.is_finished = True
        if self.batcher is not None:
            self.batcher.discard(self)

    def fail(self, error: GatewayError) -> None:
        """End with an error; called at most once, and never after `is_finished`."""
        raise NotImplementedError


class Call(Protocol):
    """A call under way."""

    def abandon(self, *, overdue: bool = False) -> bool:
        """Forget the call, as `overdue` maybe; whether another may take its place at once."""


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
    `complete`, `fail` and `split`. Items are merged up to `max_rows`, beyond which one goes alone;
    the first waits `gather_seconds` for more. What waits holds bytes of `budget`, shared with
    others.
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
    def gathering() -> Iterator[None]:
        """Have items that are submitted in this block leave together, instead of one first."""
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
        """Whether nothing waits and nothing is under way."""
        return not (self._running or self._queue or self._split)

    def submit(self, item: ItemT) -> None:
        """Queue an item, start what can be started; `Overloaded` when too much waits already."""
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
        """End a call whose items have got what they came for; start what waits."""
        self._running.discard(batch)
        if self._queue or self._split:
            self._gather_or_dispatch()

    def fail(self, batch: Batch[ItemT], error: GatewayError) -> None:
        """End a call that failed for all of its items."""
        self._end(batch.items, error)
        self.complete(batch)

    def split(self, batch: Batch[ItemT], error: GatewayError) -> None:
        """End a call refused for its content: halve it to find the culprit, which gets `error`."""
        if len(batch.items) == 1:
            self.fail(batch, error)
            return
        items = [item for item in batch.items if not item.is_finished]
        middle = (len(items) + 1) // 2
        self._split.extendleft([items[middle:], items[:middle]])
        self.complete(batch)

    def discard(self, item: BatchItem) -> None:
        """Give up the place of a waiting item that was abandoned."""
        self._forget(item)
        if len(self._queue) > _COMPACT_AFTER and self._queued < len(self._queue) // 2:
            self._queue = deque([one for one in self._queue if not one.is_finished])

    def refuse_waiting(self, error: GatewayError) -> None:
        """Fail all that waits; what is under way goes on, and what comes later is taken."""
        waiting = [*chain(self._queue, *self._split)]
        self._queue.clear()
        self._split.clear()
        self._end(waiting, error)

    def close(self, error: GatewayError) -> None:
        """Fail everything that waits or is under way."""
        for timer in (self._deadline_timer, self._gather_timer):
            if timer is not None:
                timer.cancel()
        self._deadline_timer = self._gather_timer = None
        for batch in [*self._running]:
            if batch.call is not None:
                batch.call.abandon()
        items = self._items()
        for held in (self._queue, self._split, self._running):
            held.clear()
        self._end(items, error)

    def _gather_or_dispatch(self) -> None:
        if not self._gather_seconds or self._split or self._queued_rows >= self.max_rows:
            self._dispatch()
        elif self._queue and self._gather_timer is None:
            loop = asyncio.get_running_loop()
            self._gather_timer = loop.call_later(self._gather_seconds, self._gathered)

    def _gathered(self) -> None:
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
        """Take the items of the next call; those that were abandoned meanwhile are dropped."""
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
        """Take an item off the books of those that wait."""
        item.batcher = None
        self._queued -= 1
        self._queued_rows -= item.rows
        self._budget.release(item.size)

    def _items(self) -> list[ItemT]:
        """All that wait or are under way; some have ended."""
        running = (batch.items for batch in self._running)
        return [*chain(self._queue, *self._split, *running)]

    def _end(self, items: list[ItemT], error: GatewayError) -> None:
        """Fail those of the items that have not ended."""
        for item in items:
            if not item.is_finished:
                item.is_finished = True
                if item.batcher is not None:
                    self._forget(item)
                item.fail(error)

    def _expire(self) -> None:
        """Fail what is overdue. One timer, for the earliest deadline, serves all items."""
        self._deadline_timer = None
        self._expires_at = inf
        now = asyncio.get_running_loop().time()
        late = [one for one in self._items() if one.deadline <= now and not one.is_finished]
        # Taken out first: an item that fails may go on to another destination at once.
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
        """Takes the place of an item that does not wait for its call any more."""
        taken = BatchItem(item.key, item.rows, 0, item.deadline)
        taken.is_finished = True
        return cast(ItemT, taken)

    def _drop_overdue(self, batch: Batch[ItemT], now: float) -> None:
        """Forget the overdue items of a call, and the call once nothing waits for it."""
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
