"""Blocking calls in daemon threads: reads of any online store by Feast itself, for one.

Feast is asked on the level of its online stores, whose `online_read` answers a timestamp and
values per key: its own assembling of an answer costs as much again, and ignores a view's TTL.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from serving_gateway.features.entity_rows import Row, plain_value
from serving_gateway.features.feast_internals import close_online_store, new_online_store
from serving_gateway.features.service_plan import PlannedRead, ViewRead
from serving_gateway.features.types import EntityOutcome

T = TypeVar("T")

_MAX_THREADS: Final = 16
_THREADS_PER_SERVICE: Final = 2


class DaemonThreads:
    """Threads for blocking calls, as many as calls under way; idle ones are used again.

    Not `concurrent.futures`, which joins its threads when the process exits: a call that hangs
    would then keep the process alive until it is killed.

    Args:
        name: of the threads.
        on_exit: called in each thread when it ends.
    """

    def __init__(self, name: str, on_exit: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._on_exit = on_exit
        self._threads = 0
        self._idle = 0
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._calls = SimpleQueue()

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread and await its result; raises what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._idle:
            self._idle -= 1
        else:
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._calls.put((call, future))
        return await future

    def close(self) -> None:
        """Let the threads end; one whose call hangs is not waited for."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (job := self._calls.get()) is not None:
            call, future = job
            try:
                settle = partial(future.set_result, call())
            except Exception as error:
                settle = partial(future.set_exception, error)
            with suppress(RuntimeError):  # the loop was closed meanwhile
                future.get_loop().call_soon_threadsafe(self._finish, future, settle)
        self._on_exit()

    def _finish(self, future: asyncio.Future[Any], settle: Callable[[], None]) -> None:
        self._idle += 1
        if not future.done():
            settle()


class BlockingReader:
    """Reads in a bounded number of threads, of which one service can take a few at most."""

    def __init__(self) -> None:
        self._store = _OnlineStore()
        self._threads = DaemonThreads("features", on_exit=self._store.close)
        self._all = asyncio.Semaphore(_MAX_THREADS)
        self._by_service: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_THREADS_PER_SERVICE)
        )
        self.close = self._threads.close

    async def read(self, config: Any, planned: PlannedRead) -> list[EntityOutcome]:
        """Read view by view; raises what Feast or the store behind it raises."""

        def read() -> list[EntityOutcome]:
            store = self._store.of(config)
            return planned.outcomes([_rows(store, config, planned, one) for one in planned.reads])

        async with self._by_service[planned.request.service], self._all:
            return await self._threads.run(read)


class _OnlineStore(threading.local):
    """Feast's online store of one thread.

    It is used and closed by that thread only: to close a connection of SQLite while a statement
    runs on it crashes the process.
    """

    _config: Any = None
    _store: Any = None

    def of(self, config: Any) -> Any:
        """The thread's store; a new one for a new configuration."""
        if self._config is not config:
            self.close()
            self._store = new_online_store(config)
            self._config = config
        return self._store

    def close(self) -> None:
        """Close the connections of the calling thread."""
        close_online_store(self._store)


def _rows(store: Any, config: Any, planned: PlannedRead, read: ViewRead) -> list[Row]:
    keys = planned.id_type.keys(read.view.join_key, planned.ids)
    answer = store.online_read(config, read.view.table, keys, [*read.features])
    return [
        (
            None if stamp is None else _seconds(stamp),
            None if values is None else [plain_value(values.get(one)) for one in read.features],
        )
        for stamp, values in answer
    ]


def _seconds(stamp: datetime) -> float:
    """Seconds since the epoch; a timestamp without a zone is in UTC."""
    return (stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp).timestamp()
