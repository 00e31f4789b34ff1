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
from math import inf
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar, cast

from serving_gateway.errors import DeadlineExceeded, GatewayError, Overloaded

_COMPACT_AFTER: Final = 64
"""Abandoned items that may lie in a queue before they are swept out of it."""
_EXPIRY_STEP: Final = 0.01
"""Seconds between two looks for overdue items, so that an outage costs few of them."""


class ByteBudget:
    """Bytes held for clients, bounded over everything that shares the budget.

    Args:
        limit: most bytes at one time.
    """

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

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

    Attributes:
        key: items with equal keys may share a call; None never does.
        rows: how many rows the call carries for it.
        size: bytes that it holds while it waits.
        deadline: time of the event loop after which it fails with `DeadlineExceeded`.
        is_finished: whether a result, an error or its owner's departure ended it.
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


class _Placeholder(BatchItem):
    """Takes the place of an item that does not wait for its call any more."""

    __slots__ = ()

    def __init__(self, item: BatchItem) -> None:
        super().__init__(item.key, item.rows, 0, item.deadline)
        self.is_finished = True


class Call(Protocol):
    """A call under way."""

    def abandon(self, *, overdue: bool = False) -> None:
        """Forget the call; `overdue` says that its deadline passed."""


ItemT = TypeVar("ItemT", bound=BatchItem)


class Batch(Generic[ItemT]):
    """The items of one call."""

    __slots__ = ("call", "items", "rows")

    def __init__(self, items: list[ItemT], rows: int) -> None:
        self.items = items
        self.rows = rows
        self.call: Call | None = None


class Batcher(Generic[ItemT]):
    """The queue in front of one destination.

    Whoever starts a call ends it with exactly one of `complete`, `fail` and `split`.

    Args:
        start: begins the call of a batch for this batcher, and sets `batch.call`.
        name: of the destination, for errors.
        max_rows: rows up to which items are merged; one larger item still goes alone.
        max_in_flight: most calls under way.
        max_queued: most items waiting.
        budget: bytes that waiting items may hold, shared with others.
        gather_seconds: how long the first item of a batch waits for more; 0 never waits.
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
        self.queued = 0
        self.queued_rows = 0
        self.calls = 0
        """Calls started; fewer than items when they are merged."""
        self._start = start
        self._name = name
        self._max_in_flight = max_in_flight
        self._max_queued = max_queued
        self._budget = budget
        self._gather_seconds = gather_seconds
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
        """Queue an item and start what can be started.

        Raises:
            Overloaded: too many items or bytes wait already.
        """
        if item.deadline < self._expires_at:
            self._arm(item.deadline)
        if (
            not self._queue
            and not self._split
            and len(self._running) < self._max_in_flight
            and not self._gather_seconds
            and (self._gathering is None or self._budget.held + item.size > self._budget.limit)
        ):
            self._launch([item], item.rows)
            return
        if self.queued >= self._max_queued:
            raise Overloaded(f"{self.queued} requests wait for {self._name} already.")
        if not self._budget.take(item.size):
            raise Overloaded(
                f"Requests that wait hold {self._budget.held} bytes, as many as they may."
            )
        self.queued += 1
        self.queued_rows += item.rows
        item.batcher = self
        self._queue.append(item)
        if self._gathering is not None:
            self._gathering.add(self)
        elif len(self._running) < self._max_in_flight:
            self._gather_or_dispatch()

    def complete(self, batch: Batch[ItemT]) -> None:
        """End a call whose items have got what they came for; start what waits."""
        self._running.discard(batch)
        if self._queue or self._split:
            self._gather_or_dispatch()

    def fail(self, batch: Batch[ItemT], error: GatewayError) -> None:
        """End a call that failed for all of its items."""
        for item in batch.items:
            if not item.is_finished:
                item.is_finished = True
                item.fail(error)
        self.complete(batch)

    def split(self, batch: Batch[ItemT], error: GatewayError) -> None:
        """End a call that was refused because of its content: halve it to find the culprit.

        A batch of one item fails with `error`; the halves of a larger one go first.
        """
        items = [item for item in batch.items if not item.is_finished]
        if len(batch.items) == 1:
            self.fail(batch, error)
            return
        middle = (len(items) + 1) // 2
        halves = [half for half in (items[:middle], items[middle:]) if half]
        self._split.extendleft(reversed(halves))
        self.complete(batch)

    def discard(self, item: BatchItem) -> None:
        """Give up the place of a waiting item that was abandoned."""
        item.batcher = None
        self._forget(item)
        if len(self._queue) > _COMPACT_AFTER and self.queued < len(self._queue) // 2:
            self._queue = deque([one for one in self._queue if not one.is_finished])

    def close(self, error: GatewayError) -> None:
        """Fail everything that waits or is under way."""
        for timer in (self._deadline_timer, self._gather_timer):
            if timer is not None:
                timer.cancel()
        self._deadline_timer = self._gather_timer = None
        waiting = [[*self._queue], *self._split]
        self._queue.clear()
        self._split.clear()
        for batch in [*self._running]:
            waiting.append(batch.items)
            if batch.call is not None:
                batch.call.abandon()
        self._running.clear()
        for item in (item for items in waiting for item in items):
            if not item.is_finished:
                self._end(item, error)

    def _gather_or_dispatch(self) -> None:
        if not self._gather_seconds or self._split or self.queued_rows >= self.max_rows:
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
            items, rows = self._next()
            if not items:
                return
            self._launch(items, rows)

    def _launch(self, items: list[ItemT], rows: int) -> None:
        batch = Batch(items, rows)
        self._running.add(batch)
        self.calls += 1
        self._start(batch, self)

    def _next(self) -> tuple[list[ItemT], int]:
        """Take the items of the next call; those that were abandoned meanwhile are dropped."""
        while self._split:
            items = [item for item in self._split.popleft() if not item.is_finished]
            if items:
                return items, sum(item.rows for item in items)
        queue, items, rows = self._queue, [], 0
        while queue:
            item = queue[0]
            if item.is_finished:
                queue.popleft()
                continue
            if items and (
                item.key is None or item.key != items[0].key or rows + item.rows > self.max_rows
            ):
                break
            queue.popleft()
            item.batcher = None
            self._forget(item)
            items.append(item)
            rows += item.rows
            if item.key is None:
                break
        return items, rows

    def _forget(self, item: BatchItem) -> None:
        """Take an item off the books of those that wait."""
        self.queued -= 1
        self.queued_rows -= item.rows
        self._budget.release(item.size)

    def _end(self, item: ItemT, error: GatewayError) -> None:
        item.is_finished = True
        if item.batcher is not None:
            item.batcher = None
            self._forget(item)
        item.fail(error)

    def _expire(self) -> None:
        """Fail what is overdue. One timer, for the earliest deadline, serves all items."""
        self._deadline_timer = None
        self._expires_at = inf
        now = asyncio.get_running_loop().time()
        for batch in [*self._running]:
            self._expire_running(batch, now)
        self._expire_waiting(now)
        if self._queue or self._split:
            self._dispatch()
        pending = [item.deadline for item in self._pending() if not item.is_finished]
        if pending and self._deadline_timer is None:
            self._arm(max(min(pending), now + _EXPIRY_STEP))

    def _pending(self) -> Iterator[ItemT]:
        for batch in self._running:
            yield from batch.items
        for half in self._split:
            yield from half
        yield from self._queue

    def _expire_running(self, batch: Batch[ItemT], now: float) -> None:
        """Fail the overdue items of a call, and abandon it once nothing waits for it."""
        late = [item for item in batch.items if item.deadline <= now and not item.is_finished]
        # An item that fails may go on to another destination at once: the late result of this
        # call must not reach it there, so a placeholder takes over its rows.
        batch.items = [
            cast(ItemT, _Placeholder(item)) if item.deadline <= now else item
            for item in batch.items
        ]
        if all(item.is_finished for item in batch.items):
            self._running.discard(batch)
            if batch.call is not None:
                batch.call.abandon(overdue=any(item.deadline <= now for item in batch.items))
        for item in late:
            self._end(item, self._overdue())

    def _expire_waiting(self, now: float) -> None:
        """Fail the overdue items that wait; taken out first, as they may go elsewhere at once."""
        waiting = [*self._queue, *(item for half in self._split for item in half)]
        late = [item for item in waiting if item.deadline <= now and not item.is_finished]
        if late:
            self._queue = deque([item for item in self._queue if item.deadline > now])
            self._split = deque([[i for i in half if i.deadline > now] for half in self._split])
        for item in late:
            self._end(item, self._overdue())

    def _overdue(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"There was no answer from {self._name} before the deadline.")

    def _arm(self, deadline: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._expires_at = deadline
        self._deadline_timer = asyncio.get_running_loop().call_at(deadline, self._expire)
