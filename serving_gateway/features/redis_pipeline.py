"""One connection to Redis on the event loop, with callbacks for replies.

Redis's own client costs a coroutine, a future and a lock for each command: several times the
read. Commands are pipelined: replies come in the order of the commands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

RepliesDone: TypeAlias = Callable[[list[Any] | Exception], None]
Connect: TypeAlias = Callable[[], Awaitable[tuple[asyncio.StreamWriter, float]]]


class _Exchange(NamedTuple):
    """Commands that are sent together, and their replies as far as they have come."""

    commands: bytes
    expected: int
    done: RepliesDone
    deadline: float
    replies: list[Any]


class RedisPipeline(asyncio.Protocol):
    """A connection from its opening to its loss; it is not reopened.

    Args:
        connect: opens an authenticated connection, whose protocol is replaced, and names the
            longest wait for replies in seconds; a server that exceeds it is disconnected.
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

        Args:
            commands: in Redis's protocol.
            expected: how many replies they have.
            done: gets the replies, some of which may be errors, or what ended the connection.
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
        for one in waiting:
            self.send(one.commands, one.expected, one.done)

    def data_received(self, data: bytes) -> None:
        """Collect replies; those that complete an exchange are delivered."""
        gets, exchanges = self._reader.gets, self._exchanges
        try:
            self._reader.feed(data)
            while exchanges:
                exchange = exchanges[0]
                while len(exchange.replies) < exchange.expected:
                    reply = gets()
                    if reply is False:  # it has not come as a whole
                        return
                    exchange.replies.append(reply)
                exchanges.popleft()
                exchange.done(exchange.replies)
        except self._protocol_error as error:
            self.close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what has no reply."""
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
