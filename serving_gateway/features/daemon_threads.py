"""Blocking calls in daemon threads, with their results on the event loop.

Not `concurrent.futures`, which joins its threads when the process exits: a call that hangs would
then keep the process alive until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Job(NamedTuple, Generic[T]):
    group: str
    call: Callable[[], T]
    done: Callable[[T | Exception], None]


class DaemonThreads:
    """A bounded number of threads, of which no group of calls can take all.

    Used from one event loop; only `_work` runs in the threads.

    Args:
        name: prefix of the threads' names.
        total: most threads.
        per_group: most calls of one group under way at a time; further ones wait.
        on_exit: called in each thread when it ends.
    """

    def __init__(
        self,
        name: str,
        *,
        total: int,
        per_group: int,
        on_exit: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._total = total
        self._per_group = per_group
        self._on_exit = on_exit
        self._running: Counter[str] = Counter()
        self._threads = 0
        self._waiting: deque[_Job[Any]] = deque()
        self._started: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(
        self, group: str, call: Callable[[], T], done: Callable[[T | Exception], None]
    ) -> None:
        """Run `call` in a thread; `done` then gets its result or exception on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._waiting.append(_Job(group, call, done))
        self._start_waiting()

    async def run(self, group: str, call: Callable[[], T]) -> T:
        """Run `call` in a thread and await its result; raises what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(outcome: T | Exception) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.submit(group, call, settle)
        return await future

    def close(self) -> None:
        """Drop what waits and end the idle threads; a call under way goes on unheard."""
        self._waiting.clear()
        self._loop = None
        for _ in range(self._threads):
            self._started.put(None)

    def _start_waiting(self) -> None:
        """Start waiting calls while there are threads for them."""
        blocked: list[_Job[Any]] = []
        while self._waiting and self._running.total() < self._total:
            job = self._waiting.popleft()
            if self._running[job.group] >= self._per_group:
                blocked.append(job)
                continue
            self._running[job.group] += 1
            if self._running.total() > self._threads:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._started.put(job)
        self._waiting.extendleft(reversed(blocked))

    def _work(self) -> None:
        while (job := self._started.get()) is not None:
            try:
                outcome = job.call()
            except Exception as error:
                outcome = error
            loop = self._loop
            if loop is None:
                break
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._finish, job, outcome)
        self._on_exit()

    def _finish(self, job: _Job[T], outcome: T | Exception) -> None:
        if self._loop is None:
            return
        self._running[job.group] -= 1
        if not self._running[job.group]:
            del self._running[job.group]
        self._start_waiting()
        job.done(outcome)
