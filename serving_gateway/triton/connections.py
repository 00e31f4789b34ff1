"""A lean HTTP/1.1 client for one server, for the one hop that every prediction makes.

A general client library costs more per request than Triton's own work on a small model. This
one writes prepared bytes and calls back with the response; it knows nothing of Triton. Nothing
queues here: callers bound what they have under way, so an exchange takes an idle connection or
opens its own, and a failed connection affects at most one exchange.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
MAX_CONNECTIONS: Final = 1024
"""Connections to one server, busy ones included; beyond it exchanges are refused."""
_MAX_SIMPLE_BYTES: Final = 65_536
_MAX_CACHED_HEADS: Final = 256
_MAX_LENGTH_DIGITS: Final = 18
_KEEPALIVE_SECONDS: Final = 10


class TransportError(Exception):
    """Root of what can go wrong below HTTP."""


class ConnectFailed(TransportError):
    """No connection could be opened."""


class TooManyConnections(TransportError):
    """As many connections are open as may be."""


class ConnectionLost(TransportError):
    """The connection ended before the response was complete.

    Attributes:
        answered: whether a part of the response had arrived.
        unread: whether the server cannot have read the whole request: it reset the connection
            with bytes unread, or its kernel never acknowledged them.
        kept: whether the connection had carried another exchange before.
        seconds: time since the request was written.
    """

    def __init__(
        self,
        message: str,
        *,
        answered: bool,
        unread: bool = False,
        kept: bool = False,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.unread = unread
        self.kept = kept
        self.seconds = seconds


class ResponseTimeout(TransportError):
    """The response took too long."""


class MalformedResponse(TransportError):
    """What arrived is not HTTP, or is larger than any response may be."""


class TritonResponse:
    """A complete HTTP response."""

    __slots__ = ("body", "inference_header_length", "status")

    def __init__(self, status: int, inference_header_length: int | None, body: bytes) -> None:
        self.status = status
        self.inference_header_length = inference_header_length
        self.body = body


class Exchange:
    """One request under way; subclasses say what its end means."""

    __slots__ = ("connection", "is_abandoned", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.connection: _Connection | None = None
        self.is_abandoned = False

    def on_response(self, response: TritonResponse) -> None:
        """Called with the complete response."""
        raise NotImplementedError

    def on_failure(self, error: TransportError) -> None:
        """Called when there will be no response."""
        raise NotImplementedError

    def drop(self) -> None:
        """Have no callback any more; a connection in use cannot be used again and is closed."""
        self.is_abandoned = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection that carries one exchange at a time."""

    __slots__ = (
        "_exchange",
        "_head",
        "_header_length",
        "_is_complete",
        "_is_followed",
        "_is_unread",
        "_keeps",
        "_parser",
        "_parts",
        "_pool",
        "_sent_at",
        "_size",
        "_started",
        "_status",
        "_transport",
        "exchanges",
        "opened_at",
    )

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._head: bytes | None = None
        self._header_length: int | None = None
        self._status = 0
        self._keeps = False
        self._started = False
        self._is_complete = False
        self._is_followed = False
        self._is_unread = False
        self._sent_at = 0.0
        self.exchanges = 0
        self.opened_at = 0.0

    def send(self, exchange: Exchange, now: float) -> None:
        """Write the request; the connection is the exchange's until its response is complete."""
        self._exchange = exchange
        exchange.connection = self
        self._sent_at = now
        self.exchanges += 1
        assert self._transport is not None  # noqa: S101 -- only connected ones are handed out
        self._transport.write(exchange.request)

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._transport is None

    def close(self) -> None:
        """Close it; an exchange under way is forgotten."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pool.opened(self)
        self.opened_at = self._pool.loop.time()
        made = transport.get_extra_info("socket")
        if made is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Not asked for: what comes next could be taken for another exchange's response.
            self._pool.close(self)
            return
        if not self._started and len(data) <= _MAX_SIMPLE_BYTES:
            # A head seen before means what it meant then: nearly all responses end here.
            head, _, body = data.partition(b"\r\n\r\n")
            known = self._pool.heads.get(head)
            if known is not None and known[0] == len(body):
                self._finish(exchange, TritonResponse(200, known[1], body))
                return
            self._head = head
        else:
            self._head = None
        self._started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(MalformedResponse(f"not HTTP: {error}"))
            return
        if self._size > MAX_RESPONSE_BYTES:
            self._fail(MalformedResponse(f"a response over {MAX_RESPONSE_BYTES} bytes"))
        elif self._is_complete:
            self._on_complete(exchange)

    def eof_received(self) -> None:
        self._pool.forget_idle(self)
        if self._transport is not None:
            # Whatever is sent after this is not read either.
            self._is_unread = self._exchange is None or _unacknowledged(self._transport) > 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        exchange, self._exchange = self._exchange, None
        self._pool.closed(self)
        if exchange is None:
            return
        exchange.connection = None
        reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
        why = "closed by the server" if exc is None else str(exc) or type(exc).__name__
        lost = ConnectionLost(
            why,
            answered=self._started,
            unread=not self._started and (reset or self._is_unread),
            kept=self.exchanges > 1,
            seconds=self._pool.loop.time() - self._sent_at,
        )
        exchange.on_failure(lost)

    # httptools; an exception in here would be swallowed by it, so that nothing else is called

    def on_message_begin(self) -> None:
        self._is_followed = self._is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if (
            len(name) == 31
            and name.lower() == b"inference-header-content-length"
            and value.isdigit()
            and len(value) <= _MAX_LENGTH_DIGITS
            and not self._is_complete
        ):
            self._header_length = int(value)

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= MAX_RESPONSE_BYTES and not self._is_complete:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if not self._is_complete:
            self._status = self._parser.get_status_code()
            self._keeps = self._parser.should_keep_alive()
            self._is_complete = self._status >= 200  # what precedes the response is 1xx

    def _on_complete(self, exchange: Exchange) -> None:
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        status, length = self._status, self._header_length
        keeps = self._keeps and not self._is_followed
        if status == 200 and keeps and self._head is not None:
            self._pool.remember(self._head, len(body), length)
        self._parts = []
        self._size = 0
        self._header_length = None
        self._is_complete = False
        self._started = False
        self._finish(exchange, TritonResponse(status, length, body), keeps=keeps)

    def _finish(self, exchange: Exchange, response: TritonResponse, *, keeps: bool = True) -> None:
        self._exchange = None
        exchange.connection = None
        if keeps:
            self._pool.keep(self)
        else:
            self.close()
        exchange.on_response(response)

    def _fail(self, error: TransportError) -> None:
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange.connection = None
            exchange.on_failure(error)


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes written that the peer's kernel has not acknowledged; 0 where that is not known."""
    try:
        descriptor = transport.get_extra_info("socket").fileno()
        found = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    except (AttributeError, OSError, ValueError):
        return 0
    return int(struct.unpack("i", found)[0])


class Connections:
    """The connections to one server.

    Args:
        url: its address, http or https.
        idle: most connections kept while they are not in use.
        connect_seconds: limit for opening one.
        max_age_seconds: age beyond which a connection is not used again: a server that drains is
            left, and behind a balancing address new servers get their share.
        server_name: the name in the server's certificate, where the address holds an IP.
    """

    def __init__(
        self,
        url: str,
        *,
        idle: int,
        connect_seconds: float,
        max_age_seconds: float,
        server_name: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.loop = asyncio.get_running_loop()
        self.heads: dict[bytes, tuple[int, int | None]] = {}
        """Heads of responses with status 200 that arrived whole -> sizes of body and JSON part."""
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._server_name = server_name if self._tls is not None else None
        self._most_idle = idle
        self._connect_seconds = connect_seconds
        self._max_age = max_age_seconds
        self._idle: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def busy(self) -> int:
        """Connections that carry an exchange."""
        return len(self._connections) - len(self._idle)

    def start(self, exchange: Exchange) -> None:
        """Send the exchange's request on an idle connection, or on a new one.

        Its callbacks come later, never before this returns.
        """
        idle = self._idle
        if idle:
            now = self.loop.time()
            while idle:
                connection = idle.pop()
                if now - connection.opened_at < self._max_age:
                    connection.send(exchange, now)
                    return
                connection.close()
        self.start_fresh(exchange)

    def start_fresh(self, exchange: Exchange) -> None:
        """Send the exchange's request on a new connection."""
        if self._is_closed:
            self.loop.call_soon(exchange.on_failure, ConnectFailed("the gateway is closing"))
        elif len(self._connections) + len(self._opening) >= MAX_CONNECTIONS:
            error = TooManyConnections(f"{MAX_CONNECTIONS} connections are open already")
            self.loop.call_soon(exchange.on_failure, error)
        else:
            task = self.loop.create_task(self._open(exchange))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
        except (OSError, ValueError) as error:  # also TimeoutError, and names that are none
            if not exchange.is_abandoned:
                why = str(error) or f"no connection within {self._connect_seconds:g} s"
                exchange.on_failure(ConnectFailed(why))
            return
        if exchange.is_abandoned:
            self.keep(connection)
        elif connection.is_lost:
            exchange.on_failure(ConnectionLost("closed at once", answered=False, unread=True))
        else:
            connection.send(exchange, self.loop.time())

    def keep(self, connection: _Connection) -> None:
        """Keep a connection whose exchange is complete, when there is room."""
        if len(self._idle) >= self._most_idle or connection.is_lost:
            connection.close()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(self._max_age, self._drop_old)

    def _drop_old(self) -> None:
        self._sweep = None
        oldest = self.loop.time() - self._max_age
        for connection in [one for one in self._idle if one.opened_at <= oldest]:
            self.close(connection)
        if self._idle:
            self._sweep = self.loop.call_later(self._max_age, self._drop_old)

    def remember(self, head: bytes, size: int, header_length: int | None) -> None:
        """Note what a head means, when it alone says where the response ends."""
        lines = head.lower() + b"\r\n"
        is_sized = b"\r\ncontent-length: %d\r\n" % size in lines and b"chunked" not in lines
        if is_sized and len(self.heads) < _MAX_CACHED_HEADS:
            self.heads[head] = (size, header_length)

    def close(self, connection: _Connection) -> None:
        """Close an idle connection."""
        self.forget_idle(connection)
        connection.close()

    def forget_idle(self, connection: _Connection) -> None:
        """Use a connection no more: it is ending."""
        if connection in self._idle:
            self._idle.remove(connection)

    def opened(self, connection: _Connection) -> None:
        """Note a connection that was made."""
        self._connections.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection that ended."""
        self._connections.discard(connection)
        self.forget_idle(connection)

    def drop_idle(self) -> None:
        """Close the idle connections: their server is likely to be gone."""
        for connection in [*self._idle]:
            self.close(connection)

    def retire(self) -> None:
        """Keep nothing any more; exchanges under way go on."""
        self._most_idle = 0
        self.drop_idle()
        if self._sweep is not None:
            self._sweep.cancel()

    async def aclose(self) -> None:
        """Close everything; exchanges under way are forgotten."""
        self._is_closed = True
        self.retire()
        for connection in [*self._connections]:
            connection.close()
        for task in [*self._opening]:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
