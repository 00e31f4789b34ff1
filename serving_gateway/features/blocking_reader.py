"""Reads by Feast itself, in threads.

Feast is called at the level of its online stores, whose `online_read` returns a timestamp and
values per key: Feast's own assembly of a response costs as much again, and ignores a view's TTL.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from serving_gateway.errors import GatewayError
from serving_gateway.features.entity_rows import ViewRead
from serving_gateway.features.planned_read import KeyedIds, PlannedRead
from serving_gateway.features.row_decoder import Row, plain_value
from serving_gateway.features.types import EntityOutcome, ReadDone, feast_failure

T = TypeVar("T")


class DaemonThread:
    """A thread for blocking calls, one after the other.

    Not `concurrent.futures`, which joins its threads when the process exits: a call that hangs
    would then keep the process alive until it is killed.
    """

    def __init__(self, name: str, on_exit: Callable[[], None] = lambda: None) -> None:
        self._on_exit = on_exit
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run `call`, which must not raise; `done` gets its result on the event loop."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            result = call()
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done, result)

        self._calls.put(work)

    def close(self) -> None:
        """Let the thread end after the calls submitted so far, without waiting for it."""
        self._calls.put(None)

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
        self._on_exit()


class BlockingReader:
    """Reads one feature service, so that a service that hangs delays no other.

    Its online store is used and closed by its thread only: closing an SQLite connection while a
    statement runs on it crashes the process.
    """

    def __init__(self, service: str) -> None:
        self._config: Any = None
        self._store: Any = None
        self._thread = DaemonThread(f"features of {service}", on_exit=self._disconnect)
        self.close = self._thread.close

    def read(self, planned: PlannedRead, done: ReadDone) -> None:
        """Read view by view."""
        self._thread.submit(partial(self._read, planned), done)

    def _read(self, planned: PlannedRead) -> list[EntityOutcome] | GatewayError:
        try:
            if self._config is not planned.config:
                self._disconnect()
                self._store, self._config = new_online_store(planned.config), planned.config
            return planned.outcomes(
                [
                    [_rows(self._store, planned, own, view) for view in own.read.views]
                    for own in planned.keys
                ]
            )
        except Exception as error:
            return feast_failure("read the online store", error)

    def _disconnect(self) -> None:
        """Close the connections, for which Feast has no call."""
        for name in ("_conn", "_client"):
            # They are discarded, so their state does not matter.
            with suppress(Exception):
                getattr(self._store, name).close()


def new_online_store(config: Any) -> Any:
    """An online store of Feast, not yet connected; imports what its reads need."""
    from feast.infra.online_stores.helpers import get_online_store_from_config

    return get_online_store_from_config(config.online_store)


def _rows(store: Any, planned: PlannedRead, own: KeyedIds, read: ViewRead) -> list[Row]:
    if not own.ids:
        return []
    keys = own.read.key.id_type.keys(read.view.join_key, own.ids)
    answer = store.online_read(planned.config, read.view.table, keys, [*read.features])
    return [
        (
            # Feast means UTC where a time zone is missing.
            None if stamp is None else stamp.replace(tzinfo=stamp.tzinfo or UTC).timestamp(),
            None if values is None else [plain_value(values.get(name)) for name in read.features],
        )
        for stamp, values in answer
    ]
