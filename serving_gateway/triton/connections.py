"""A lean HTTP/1.1 client over kept connections, for the one hop that every prediction makes.

A general client library costs more per request than Triton's own work on a small model. This
one writes prepared bytes and calls back with the answer; it knows nothing of Triton. Its
exceptions stay below `serving_gateway.triton.client`, which translates them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class TransportError(Exception):
    """Root of what can go wrong below HTTP."""


class ConnectFailed(TransportError):
    """No connection could be opened."""


class ConnectionLost(TransportError):
    """The connection ended before the answer was complete."""

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered
        """Whether a part of the answer had arrived, so that the server had worked on it."""


class AnswerTimeout(TransportError):
    """The answer took too long."""


class MalformedAnswer(TransportError):
    """What arrived is not HTTP, or is larger than any answer may be."""


class Answer:
    """A complete HTTP answer."""

    __slots__ = ("body", "inference_header_length", "status")

    def __init__(self, status: int, inference_header_length: int | None, body: bytes) -> None:
        self.status = status
        self.inference_header_length = inference_header_length
        self.body = body


Result = Answer | TransportError
Done = Callable[[Result], None]


class Exchange:
    """One request under way. `abandon` forgets it: nobody is called back any more."""

    __slots__ = ("connection", "done", "request")

    def __init__(self, request: bytes, done: Done) -> None:
        self.request = request
        self.done: Done | None = done
        self.connection: _Connection | None = None

    def finish(self, result: Result) -> None:
        """Call back, once."""
        done, self.done = self.done, None
        if done is not None:
            done(result)

    def abandon(self) -> None:
        """Forget the exchange; its connection cannot be used again and is closed."""
        self.done = None
        if self.connection is not None:
            self.connection.close()


class _Connection(asyncio.Protocol):
    """One connection that carries one exchange at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._header_length: int | None = None
        self._started = False

    def send(self, exchange: Exchange) -> None:
        """Write the request; the connection is the exchange's until its answer is complete."""
        self._exchange = exchange
        exchange.connection = self
        self._started = False
        assert self._transport is not None  # noqa: S101 -- only connected ones are handed out
        self._transport.write(exchange.request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(MalformedAnswer(f"not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        exchange, self._exchange = self._exchange, None
        self._pool.closed(self)
        if exchange is not None:
            why = "closed by the server" if exc is None else str(exc) or type(exc).__name__
            exchange.finish(ConnectionLost(why, answered=self._started))

    # httptools

    def on_message_begin(self) -> None:
        self._parts = []
        self._size = 0
        self._header_length = None

    def on_header(self, name: bytes, value: bytes) -> None:
        if (
            len(name) == 31
            and name.lower() == b"inference-header-content-length"
            and value.isdigit()
        ):
            self._header_length = int(value)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > MAX_ANSWER_BYTES:
            self._fail(MalformedAnswer(f"answer over {MAX_ANSWER_BYTES} bytes"))
            return
        self._parts.append(body)

    def on_message_complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            # An answer that nobody asked for: whatever comes next could be taken for another's.
            self.close()
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        answer = Answer(self._parser.get_status_code(), self._header_length, body)
        exchange.connection = None
        if self._parser.should_keep_alive():
            self._pool.free(self)
        else:
            self.close()
        exchange.finish(answer)

    def _fail(self, error: TransportError) -> None:
        exchange, self._exchange = self._exchange, None
        self.close()
        if exchange is not None:
            exchange.finish(error)


class Pool:
    """Kept connections to one server.

    Args:
        url: http(s)://host[:port].
        size: most connections at one time; further exchanges wait for one.
        connect_seconds: limit for opening a connection.
    """

    def __init__(self, url: str, *, size: int, connect_seconds: float) -> None:
        parts = urlsplit(url)
        self.url = url
        self.authority = parts.netloc
        self.prefix = parts.path.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._size = size
        self._connect_seconds = connect_seconds
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._opening = 0
        self._waiting: deque[Exchange] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def start(self, exchange: Exchange) -> None:
        """Send the exchange's request on an idle connection, or on a new one, or wait."""
        if self._idle:
            self._idle.pop().send(exchange)
            return
        self._waiting.append(exchange)
        self._open_more()

    async def fetch(self, request: bytes, limit_seconds: float) -> Answer:
        """Send a request and wait for the answer.

        Raises:
            TransportError: whatever went wrong.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(result: Result) -> None:
            if future.done():
                return
            if isinstance(result, Answer):
                future.set_result(result)
            else:
                future.set_exception(result)

        exchange = Exchange(request, done)
        self.start(exchange)
        try:
            async with asyncio.timeout(limit_seconds):
                return await future
        except TimeoutError as error:
            raise AnswerTimeout(f"no answer within {limit_seconds:g} s") from error
        finally:
            if not future.done() or future.cancelled():
                exchange.abandon()

    def drop_idle(self) -> None:
        """Close the idle connections: after a loss they likely lead to the same dead server."""
        for connection in [*self._idle]:
            connection.close()
        self._idle.clear()

    async def aclose(self) -> None:
        """Close everything; exchanges under way fail."""
        self._is_closed = True
        for connection in [*self._connections]:
            connection.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse_waiting("the pool is closed")

    def free(self, connection: _Connection) -> None:
        """Take back a connection whose answer is complete."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.done is not None:
                connection.send(exchange)
                return
        self._idle.append(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection that ended."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._open_more()

    def _open_more(self) -> None:
        if self._is_closed:
            self._refuse_waiting("the pool is closed")
            return
        room = self._size - len(self._connections) - self._opening
        for _ in range(min(room, len(self._waiting) - self._opening)):
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._open())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        """Open one connection and hand it to whoever waits; when that fails, all fail."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            self._refuse_waiting(str(error) or f"no connection within {self._connect_seconds:g} s")
            return
        finally:
            self._opening -= 1
        self._connections.add(connection)
        self.free(connection)

    def _refuse_waiting(self, why: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.finish(ConnectFailed(why))
