"""Reads of a plain Redis on the event loop: all entities of a read in one write.

Feast's reader waits in a thread and builds messages for each key; of the interpreter's time for
a look-up that is the larger part. HMGET is pipelined rather than called by a script: it is no
slower, and a managed Redis without EVAL works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving_gateway.errors import FeaturesUnavailable
from serving_gateway.features.feast_internals import connect_redis
from serving_gateway.features.feast_snapshot import READING, FeastSnapshot, feast_failure
from serving_gateway.features.lookup_results import judge_rows
from serving_gateway.features.redis_pipeline import RedisPipeline
from serving_gateway.features.service_plan import ViewRead
from serving_gateway.features.types import EntityOutcome, LookupRequest, ReadDone


class RedisReader:
    """Reads the hashes of entities over one connection.

    Args:
        limit_seconds: longest wait for an answer of Redis, unless Feast's connection string has
            a limit.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._snapshot: FeastSnapshot | None = None
        self._pipeline: RedisPipeline | None = None
        self._is_closed = False

    @property
    def is_connected(self) -> bool:
        """Whether there is an open connection."""
        return self._pipeline is not None and self._pipeline.is_connected

    def read(self, snapshot: FeastSnapshot, request: LookupRequest, done: ReadDone) -> None:
        """Read view by view; `done` as in `FeatureStore.read`.

        Raises:
            ServiceUnusable, FeaturesUnavailable: nothing is read, and `done` is not called.
        """
        reads = snapshot.plan(request.service).reads(request.names)
        commands = [read.command(one) for read in reads for one in request.ids]
        packed, expected = b"".join(commands), len(commands)
        # A connection may be lost just before it is used: the server was restarted, or a proxy
        # closed what was idle.
        may_repeat = self.is_connected

        def finish(replies: list[Any] | Exception) -> None:
            nonlocal may_repeat
            if isinstance(replies, ConnectionError) and may_repeat and not self._is_closed:
                may_repeat = False
                self._connection(snapshot).send(packed, expected, finish)
                return
            outcome: list[EntityOutcome] | Exception = replies
            if not isinstance(replies, Exception):
                try:
                    outcome = _outcomes(request, reads, replies)
                except Exception as error:
                    outcome = error
            done(feast_failure(READING, outcome) if isinstance(outcome, Exception) else outcome)

        self._connection(snapshot).send(packed, expected, finish)

    def _connection(self, snapshot: FeastSnapshot) -> RedisPipeline:
        """A connection to the snapshot's server; a new one when it was lost or has moved."""
        if self._is_closed:
            raise FeaturesUnavailable("The feature store is closed.")
        pipeline, former = self._pipeline, self._snapshot
        self._snapshot = snapshot
        if pipeline is not None and not pipeline.is_closed:
            if former is not None and former.address == snapshot.address:
                return pipeline
            pipeline.close(ConnectionError("Feast's configuration names another Redis."))
        config = snapshot.config
        self._pipeline = RedisPipeline(lambda: connect_redis(config), self._limit)
        return self._pipeline

    def close(self) -> None:
        """Close the connection; later reads fail."""
        self._is_closed = True
        if self._pipeline is not None:
            self._pipeline.close(ConnectionError("The feature store is closed."))


def _outcomes(
    request: LookupRequest, reads: Sequence[ViewRead], replies: list[Any]
) -> list[EntityOutcome]:
    """Judge replies, view by view; an entity whose key holds something else fails alone."""
    count = len(request.ids)
    errors = [(at, one) for at, one in enumerate(replies) if isinstance(one, Exception)]
    for at, error in errors:
        if not str(error).startswith("WRONGTYPE"):
            raise error
        replies[at] = [None]
    rows = [
        [read.decode(one) for one in replies[index * count : (index + 1) * count]]
        for index, read in enumerate(reads)
    ]
    outcomes: list[EntityOutcome] = [*judge_rows(request, reads, rows)]
    for at, error in errors:
        outcomes[at % count] = feast_failure(READING, error)
    return outcomes
