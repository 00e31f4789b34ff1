"""Concurrent look-ups of the same features share one read of the store.

An idle store is asked at once, so nothing waits for company. While a read is under way,
look-ups gather, and leave together as soon as it returns. There is one read at a time for the
same features: a store that hangs holds one of its threads, however much is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from serving_gateway.errors import FeaturesUnavailable
from serving_gateway.features.breaker import Breaker
from serving_gateway.features.types import (
    FeatureStore,
    Found,
    InvalidEntityIds,
    ServiceUnusable,
)
from serving_gateway.telemetry.counters import LookupCounts


class _Job:
    """The ids of a look-up, or a part of a large one."""

    __slots__ = ("deadline", "future", "ids", "start")

    def __init__(
        self,
        ids: Sequence[int | str],
        start: int,
        future: asyncio.Future[list[Found]],
        deadline: float,
    ) -> None:
        self.ids = ids
        self.start = start
        self.future = future
        self.deadline = deadline

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            # Retrieved: one whose waiter leaves at this moment is no news for the log.
            self.future.exception()


class Overdue(FeaturesUnavailable):
    """No answer within the limit of a look-up."""


_Asked = tuple[str, tuple[str, ...], frozenset[str]]
"""Feature service, names in order, those of them that may be null."""


class _Lane:
    """What waits for, and what is read from, the same features of the same service."""

    __slots__ = ("asked", "flight", "queue", "rows")

    def __init__(self, asked: _Asked) -> None:
        self.asked = asked
        self.queue: deque[_Job] = deque()
        self.rows = 0
        self.flight: _Flight | None = None

    def put(self, job: _Job) -> None:
        self.queue.append(job)
        self.rows += len(job.ids)

    def put_first(self, job: _Job) -> None:
        self.queue.appendleft(job)
        self.rows += len(job.ids)

    def take(self) -> _Job:
        job = self.queue.popleft()
        self.rows -= len(job.ids)
        return job

    def drop_given_up(self) -> None:
        """Forget the first ones as far as nobody waits for them any more."""
        while self.queue and self.queue[0].future.done():
            self.take()


class _Flight:
    """One read under way."""

    __slots__ = ("jobs", "late", "positions", "task", "timer")

    def __init__(self, jobs: list[_Job], positions: dict[int | str, int]) -> None:
        self.jobs = jobs
        self.positions = positions
        self.late = False
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class Batches:
    """The queues in front of a store.

    Args:
        store: what is read.
        breaker: hears what came of each read.
        counts: counts reads and refusals.
        limit_seconds: after which a read counts as failed.
        max_rows: most different ids in one read.
        max_queued: most ids waiting for the same features.
    """

    def __init__(
        self,
        store: FeatureStore,
        breaker: Breaker,
        counts: LookupCounts,
        *,
        limit_seconds: float,
        max_rows: int,
        max_queued: int,
    ) -> None:
        self._store = store
        self._breaker = breaker
        self._counts = counts
        self._limit = limit_seconds
        self._max_rows = max_rows
        self._max_queued = max_queued
        self._lanes: dict[_Asked, _Lane] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awaited: deque[_Job] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def submit(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str],
    ) -> list[asyncio.Future[list[Found]]]:
        """Queue a look-up, in parts when it is larger than a read, and start what can be.

        Raises:
            FeaturesUnavailable: too many ids wait for the same features already.
        """
        asked = (service, names, nullable)
        lane = self._lanes.get(asked) or _Lane(asked)
        lane.drop_given_up()
        if lane.rows + len(ids) > self._max_queued:
            self._counts.refused += 1
            raise FeaturesUnavailable(
                f"{lane.rows} entities wait for their features already; at most "
                f"{self._max_queued} may.",
                code="too_many_look_ups",
            )
        self._lanes[asked] = lane
        size = self._max_rows
        # Kept: to ask for it costs a system call, and this is once for each prediction.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        deadline = loop.time() + self._limit
        jobs = [
            _Job(ids[at : at + size], at, loop.create_future(), deadline)
            for at in range(0, len(ids), size)
        ]
        for job in jobs:
            lane.put(job)
        # Answered ones go at once: kept until their time is up they would be thousands, all of
        # which the collector of garbage would look through again and again.
        while self._awaited and self._awaited[0].future.done():
            self._awaited.popleft()
        self._awaited.extend(jobs)
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire)
        if lane.flight is None:
            self._dispatch(lane)
        return [job.future for job in jobs]

    def _expire(self) -> None:
        """Fail the look-ups that are overdue. One timer serves all: the oldest end first."""
        self._timer = None
        loop = self._loop
        if loop is None:
            return
        now = loop.time()
        awaited = self._awaited
        while awaited and (awaited[0].future.done() or awaited[0].deadline <= now):
            awaited.popleft().fail(
                Overdue(f"The feature store did not answer within {self._limit:g} s.")
            )
        if awaited:
            self._timer = loop.call_at(awaited[0].deadline, self._expire)

    async def aclose(self) -> None:
        """Fail what waits; returns once no read is awaited any more."""
        if self._timer is not None:
            self._timer.cancel()
        ending = FeaturesUnavailable("The gateway is ending.")
        tasks: list[asyncio.Task[None]] = []
        for lane in [*self._lanes.values()]:
            flight = lane.flight
            for job in [*lane.queue, *(flight.jobs if flight else ())]:
                job.fail(ending)
            if flight is not None and flight.task is not None:
                flight.task.cancel()
                tasks.append(flight.task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _dispatch(self, lane: _Lane) -> None:
        """Start the next read; a lane that has none to do is forgotten."""
        jobs: list[_Job] = []
        positions: dict[int | str, int] = {}
        while lane.queue:
            job = lane.queue[0]
            if not job.future.done():
                more = sum(1 for one in {*job.ids} if one not in positions)
                if jobs and len(positions) + more > self._max_rows:
                    break
                jobs.append(job)
                for one in job.ids:
                    positions.setdefault(one, len(positions))
            lane.take()
        if not jobs:
            lane.flight = None
            self._lanes.pop(lane.asked, None)
            return
        flight = lane.flight = _Flight(jobs, positions)
        self._counts.reads += 1
        self._counts.rows_read += len(positions)
        loop = asyncio.get_running_loop()
        flight.timer = loop.call_later(self._limit, self._overdue, flight)
        flight.task = loop.create_task(self._fly(lane, flight))

    def _overdue(self, flight: _Flight) -> None:
        """Count a read that has not returned; once more for each further limit that passes.

        So a read that hangs for ever opens the breaker although no other one is started.
        """
        if not flight.late:
            self._counts.failed_reads += 1
        flight.late = True
        self._breaker.failed(f"It did not answer within {self._limit:g} s.")
        loop = asyncio.get_running_loop()
        flight.timer = loop.call_later(self._limit, self._overdue, flight)

    async def _fly(self, lane: _Lane, flight: _Flight) -> None:
        """Read, and give each job its part."""
        try:
            service, names, nullable = lane.asked
            found = await self._store.read(service, names, [*flight.positions], nullable)
        except InvalidEntityIds as error:
            _sort_out(lane, flight, error)
        except ServiceUnusable as error:
            _fail_all(flight, error)
        except FeaturesUnavailable as error:
            if not flight.late:
                self._counts.failed_reads += 1
                self._breaker.failed(error.message)
            _fail_all(flight, error)
        except Exception as error:
            # A fault of ours belongs to those who wait, not to the log alone.
            _fail_all(flight, error)
        else:
            if not flight.late:
                self._breaker.succeeded()
            for job in flight.jobs:
                if not job.future.done():
                    job.future.set_result([found[flight.positions[one]] for one in job.ids])
        finally:
            if flight.timer is not None:
                flight.timer.cancel()
            self._dispatch(lane)


def _fail_all(flight: _Flight, error: Exception) -> None:
    for job in flight.jobs:
        job.fail(error)


def _sort_out(lane: _Lane, flight: _Flight, error: InvalidEntityIds) -> None:
    """Fail the look-ups that hold a wrong id; the others go first in the next read."""
    wrong = {one: error.wrong[at] for one, at in flight.positions.items() if at in error.wrong}
    for job in reversed(flight.jobs):
        own = {job.start + at: wrong[one] for at, one in enumerate(job.ids) if one in wrong}
        if own:
            job.fail(InvalidEntityIds(own))
        else:
            lane.put_first(job)
