"""Reads of any online store by Feast itself, in threads.

Feast is asked on the level of its online stores, whose `online_read` answers a timestamp and
values per key: its own assembling of an answer costs as much again, and ignores a view's TTL.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any, Final

from serving_gateway.features.daemon_threads import DaemonThreads
from serving_gateway.features.feast_internals import close_online_store, new_online_store
from serving_gateway.features.feast_snapshot import (
    READING,
    FeastSnapshot,
    feast_errors_translated,
    feast_failure,
)
from serving_gateway.features.feast_values import plain_value
from serving_gateway.features.lookup_results import judge_rows
from serving_gateway.features.service_plan import Row, ServicePlan, ViewRead
from serving_gateway.features.types import LookupRequest, LookupResult, ReadDone

MAX_THREADS: Final = 16


class BlockingReader:
    """Reads in a bounded number of threads, of which one service can take a few at most.

    Args:
        threads_per_service: most reads of one service at a time.
    """

    def __init__(self, threads_per_service: int) -> None:
        self._store = _OnlineStore()
        self._threads = DaemonThreads(
            "features",
            total=MAX_THREADS,
            per_group=threads_per_service,
            on_exit=self._store.close,
        )

    def read(self, snapshot: FeastSnapshot, request: LookupRequest, done: ReadDone) -> None:
        """Read view by view; `done` as in `FeatureStore.read`.

        Raises:
            ServiceUnusable, FeaturesUnavailable: nothing is read, and `done` is not called.
        """
        plan = snapshot.plan(request.service)
        reads = plan.reads(request.names)

        def read() -> list[LookupResult]:
            with feast_errors_translated(READING):
                store = self._store.of(snapshot)
                rows = [_rows(store, snapshot, plan, one, request) for one in reads]
                return judge_rows(request, reads, rows)

        def finish(outcome: list[LookupResult] | Exception) -> None:
            if isinstance(outcome, Exception):
                done(feast_failure(READING, outcome))
            else:
                done([*outcome])

        self._threads.submit(request.service, read, finish)

    def close(self) -> None:
        """Let the threads close their connections and end; one that hangs is not waited for."""
        self._threads.close()


class _OnlineStore(threading.local):
    """Feast's online store of one thread.

    It is used and closed by that thread only: to close a connection of SQLite while a statement
    runs on it crashes the process.
    """

    _snapshot: FeastSnapshot | None = None
    _store: Any = None

    def of(self, snapshot: FeastSnapshot) -> Any:
        """The thread's store; a new one for a new snapshot."""
        if self._snapshot is not snapshot:
            self.close()
            self._store = new_online_store(snapshot.config)
            self._snapshot = snapshot
        return self._store

    def close(self) -> None:
        """Close the connections of the calling thread."""
        close_online_store(self._store)


def _rows(
    store: Any, snapshot: FeastSnapshot, plan: ServicePlan, read: ViewRead, request: LookupRequest
) -> list[Row]:
    keys = plan.entity_keys(read.view.join_key, request.ids)
    answer = store.online_read(snapshot.config, read.view.table, keys, [*read.features])
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
