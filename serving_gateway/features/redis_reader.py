"""Reads of a plain Redis on the event loop: all entities of a read in one write.

Feast's reader waits in a thread and builds messages for each key, and Redis's own client costs a
coroutine, a future and a lock per command: several times the cost of the read. HMGET is pipelined
rather than called by a script: it is no slower, and works on a managed Redis without EVAL.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.entity_rows import HashRead
from serving_gateway.features.feast_redis import connect_redis
from serving_gateway.features.planned_read import KeyedIds, PlannedRead
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.types import EntityOutcome, ReadDone, feast_failure

Connect: TypeAlias = Callable[[], Awaitable[tuple[asyncio.StreamWriter, float]]]
RepliesDone: TypeAlias = Callable[[list[Any] | Exception], None]


class RedisReader:
    """Reads the hashes of entities over one connection."""

    def __init__(self) -> None:
        self._address = ""
        self._pipeline: RedisPipeline | None = None

    def read(self, planned: PlannedRead, done: ReadDone) -> None:
        """Read all keys and views at once, from the server that Feast's configuration names."""
        commands = [
            hash_read.command(entity)
            for own in planned.keys
            for hash_read in own.read.hashes or ()
            for entity in own.ids
        ]
        packed, expected = b"".join(commands), len(commands)
        # A connection may be lost just before it is used: the server was restarted, or a proxy
        # closed an idle connection.
        pipeline = self._connection(planned.config)
        may_repeat = pipeline.is_connected

        def finish(replies: list[Any] | Exception) -> None:
            nonlocal may_repeat
            if isinstance(replies, ConnectionError) and may_repeat:
                may_repeat = False
                self._connection(planned.config).send(packed, expected, finish)
            elif isinstance(replies, Exception):
                done(feast_failure("read the online store", replies))
            else:
                done(_outcomes(planned, replies))

        pipeline.send(packed, expected, finish)

    def close(self) -> None:
        """Close the connection; reads in flight fail, and none may follow."""
        if self._pipeline is not None:
            self._pipeline.close(FeaturesUnavailable("The feature store is closed."))

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


def _outcomes(planned: PlannedRead, replies: list[Any]) -> list[EntityOutcome] | GatewayError:
    """Judge replies, key by key; an entity whose key holds something else fails alone."""
    try:
        rows, start = [], 0
        for own in planned.keys:
            key_rows: list[list[Row]] = []
            for hash_read in own.read.hashes or ():
                stop = start + len(own.ids)
                key_rows += hash_read.rows(_replace_errors(own, hash_read, replies[start:stop]))
                start = stop
            rows.append(key_rows)
    except Exception as error:  # Redis's, or the parser's for foreign data
        return feast_failure("read the online store", error)
    return planned.outcomes(rows)


def _replace_errors(own: KeyedIds, read: HashRead, replies: list[Any]) -> list[Any]:
    """Replace the reply for an id whose key is not a hash by nulls, and note its error."""
    for at, error in enumerate(replies):
        if isinstance(error, Exception):
            if not str(error).startswith("WRONGTYPE"):
                raise error
            own.errors[at] = feast_failure("read the online store", error)
            replies[at] = [None] * read.width
    return replies


class _Exchange(NamedTuple):
    """Commands that are sent together, and the replies received so far."""

    commands: bytes
    expected: int
    done: RepliesDone
    deadline: float
    replies: list[Any]


class RedisPipeline(asyncio.Protocol):
    """A connection from its opening to its loss; replies come in the order of the commands.

    `connect` opens an authenticated connection, whose protocol is replaced, and returns the longest
    wait for replies in seconds, too; a server that exceeds it is disconnected.
    """

    def __init__(self, connect: Connect) -> None:
        import hiredis

        self.is_closed = False
        self._limit = 0.0
        self._protocol_error: type[Exception] = hiredis.ProtocolError
        self._reader: Any = hiredis.Reader()
        self._loop = asyncio.get_running_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._exchanges: deque[_Exchange] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._opening = self._loop.create_task(self._open(connect))

    @property
    def is_connected(self) -> bool:
        """Whether commands go out at once."""
        return self._writer is not None and not self.is_closed

    def send(self, commands: bytes, expected: int, done: RepliesDone) -> None:
        """Send serialized commands, once connected; never calls back synchronously.

        `done` gets the `expected` number of replies, some of which may be errors, or the exception
        that ended the connection.
        """
        deadline = self._loop.time() + self._limit
        self._exchanges.append(_Exchange(commands, expected, done, deadline, []))
        if self._writer is not None:
            self._writer.transport.write(commands)
            if self._timer is None:
                self._timer = self._loop.call_at(deadline, self._expire)

    def close(self, error: Exception) -> None:
        """Close the connection; commands without a reply fail with `error`."""
        self.is_closed = True
        self._opening.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.transport.abort()
        failed, self._exchanges = self._exchanges, deque()
        for exchange in failed:
            exchange.done(error)

    async def _open(self, connect: Connect) -> None:
        try:
            self._writer, self._limit = await connect()
        except Exception as error:
            self.close(error)
            return
        self._writer.transport.set_protocol(self)
        waiting, self._exchanges = self._exchanges, deque()
        for exchange in waiting:
            self.send(exchange.commands, exchange.expected, exchange.done)

    def data_received(self, data: bytes) -> None:
        """Collect replies; those that complete an exchange are delivered."""
        gets, exchanges = self._reader.gets, self._exchanges
        try:
            self._reader.feed(data)
            while exchanges:
                exchange = exchanges[0]
                while len(exchange.replies) < exchange.expected:
                    reply = gets()
                    if reply is False:  # not complete yet
                        return
                    exchange.replies.append(reply)
                exchanges.popleft()
                exchange.done(exchange.replies)
        except self._protocol_error as error:
            self.close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all commands that have no reply."""
        self.close(exc or ConnectionResetError("Redis closed the connection."))

    def _expire(self) -> None:
        """Disconnect a server that does not answer. One timer serves all exchanges."""
        self._timer = None
        if not self._exchanges:
            return
        deadline = self._exchanges[0].deadline
        if deadline <= self._loop.time():
            self.close(TimeoutError(f"Redis did not answer within {self._limit:g} s."))
        else:
            self._timer = self._loop.call_at(deadline, self._expire)
