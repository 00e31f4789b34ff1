"""Reads of a plain Redis on the event loop: all entities of a read in one write.

Feast's reader waits in a thread and builds messages for each key; of the interpreter's time for
a look-up that is the larger part. HMGET is pipelined rather than called by a script: it is no
slower, and a managed Redis without EVAL works.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.feast_internals import connect_redis
from serving_gateway.features.feast_snapshot import feast_failure
from serving_gateway.features.redis_pipeline import RedisPipeline
from serving_gateway.features.service_plan import PlannedRead
from serving_gateway.features.types import EntityOutcome, ReadDone

READING: Final = "read the online store"


class RedisReader:
    """Reads the hashes of entities over one connection."""

    def __init__(self) -> None:
        self._address = ""
        self._pipeline: RedisPipeline | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is an open connection."""
        return self._pipeline is not None and self._pipeline.is_connected

    def read(self, config: Any, planned: PlannedRead, done: ReadDone) -> None:
        """Read view by view, from the server that Feast's configuration names."""
        commands = [read.command(one) for read in planned.reads for one in planned.ids]
        packed, expected = b"".join(commands), len(commands)
        # A connection may be lost just before it is used: the server was restarted, or a proxy
        # closed what was idle.
        may_repeat = self.is_connected

        def finish(replies: list[Any] | Exception) -> None:
            nonlocal may_repeat
            if isinstance(replies, ConnectionError) and may_repeat:
                may_repeat = False
                self._connection(config).send(packed, expected, finish)
                return
            if isinstance(replies, Exception):
                done(feast_failure(READING, replies))
            else:
                done(_outcomes(planned, replies))

        self._connection(config).send(packed, expected, finish)

    def _connection(self, config: Any) -> RedisPipeline:
        """A connection to the configured server; a new one when it was lost or has moved."""
        address = config.online_store.connection_string
        pipeline = self._pipeline
        if pipeline is not None and not pipeline.is_closed:
            if address == self._address:
                return pipeline
            pipeline.close(ConnectionError("Feast's configuration names another Redis."))
        self._address = address
        self._pipeline = RedisPipeline(partial(connect_redis, config))
        return self._pipeline

    def close(self) -> None:
        """Close the connection; reads under way fail, and there are no later ones."""
        if self._pipeline is not None:
            self._pipeline.close(FeaturesUnavailable("The feature store is closed."))


def _outcomes(planned: PlannedRead, replies: list[Any]) -> list[EntityOutcome] | GatewayError:
    """Judge replies, view by view; an entity whose key holds something else fails alone."""
    count = len(planned.ids)
    for at, error in enumerate(replies):
        if isinstance(error, Exception):
            failure = feast_failure(READING, error)
            if not str(error).startswith("WRONGTYPE"):
                return failure
            planned.errors[at % count] = failure
            replies[at] = [None]
    try:
        rows = [
            [*map(read.decode, replies[index * count : (index + 1) * count])]
            for index, read in enumerate(planned.reads)
        ]
    except Exception as error:  # of the parser, for what is not Feast's
        return feast_failure(READING, error)
    return planned.outcomes(rows)
