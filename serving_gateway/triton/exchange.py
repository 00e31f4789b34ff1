"""One HTTP exchange with a server: the connection that carries it, and how it can end."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import httptools

from serving_gateway.errors import BadUpstreamAnswer, GatewayError, TritonUnavailable

if TYPE_CHECKING:
    from serving_gateway.triton.connections import Connections

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
AT_ONCE_SECONDS: Final = 0.1
"""A connection lost this soon after a request was not lost because of the work on it."""
_MAX_SIMPLE_BYTES: Final = 65_536
_MAX_LENGTH_DIGITS: Final = 18
_KEEPALIVE_SECONDS: Final = 10


class ConnectFailed(TritonUnavailable):
    """No connection could be opened."""


class ConnectionLost(TritonUnavailable):
    """The connection ended before the response was complete, `seconds` after the request.

    `unread`: the server cannot have read the whole request, as it reset the connection with bytes
    unread, or its kernel never acknowledged them. `answered`: a part of the response had arrived.
    `kept`: the connection had carried another exchange before.
    """

    def __init__(
        self,
        url: str,
        why: str,
        *,
        unread: bool,
        answered: bool = False,
        kept: bool = False,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(f"Triton at {url} closed the connection: {why}.")
        self.answered = answered
        self.unread = unread
        self.kept = kept
        self.seconds = seconds


@dataclass(slots=True, eq=False)
class TritonResponse:
    """A complete HTTP response."""

    status: int
    inference_header_length: int | None
    body: bytes


class Exchange:
    """One request in flight; subclasses say what its end means."""

    __slots__ = ("connection", "is_abandoned", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.connection: Connection | None = None
        self.is_abandoned = False

    def on_response(self, response: TritonResponse) -> None:
        """Called with the complete response."""
        raise NotImplementedError

    def on_failure(self, error: GatewayError) -> None:
        """Called when there will be no response."""
        raise NotImplementedError

    def drop(self) -> None:
        """Cancel the callbacks; a connection in use cannot be used again and is closed."""
        self.is_abandoned = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time; `opened_at` is `loop.time()`."""

    def __init__(self, pool: Connections) -> None:
        self.opened_at = 0.0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._exchanges = 0
        self._sent_at = 0.0
        self._is_answered = False
        self._is_unread = False
        # It swallows what its callbacks raise, so none of them calls other code.
        self._parser = httptools.HttpResponseParser(self)
        self._expect_response()

    def _expect_response(self) -> None:
        self._is_complete = False
        self._header_length: int | None = None
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._transport is None

    def send(self, exchange: Exchange, now: float) -> None:
        """Write the request; the connection is the exchange's until its response is complete."""
        self._exchange = exchange
        exchange.connection = self
        self._sent_at = now
        self._exchanges += 1
        assert self._transport is not None  # noqa: S101 -- only connected ones are handed out
        self._transport.write(exchange.request)

    def close(self) -> None:
        """Close it; an exchange in flight is forgotten."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the kernel notice a peer that vanished."""
        self._transport = cast(asyncio.Transport, transport)
        self._pool.open.add(self)
        self.opened_at = self._pool.loop.time()
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Read a response, or a part of one."""
        exchange = self._exchange
        if exchange is None:
            # Unsolicited: what comes next could be taken for another exchange's response.
            self._pool.stop_using(self)
            self.close()
            return
        head = None
        if not self._is_answered and len(data) <= _MAX_SIMPLE_BYTES:
            # A head seen before means what it meant then: nearly all responses end here.
            head, _, body = data.partition(b"\r\n\r\n")
            known = self._pool.heads.get(head)
            if known is not None and known[0] == len(body):
                self._finish(exchange, TritonResponse(200, known[1], body))
                return
        self._is_answered = True
        self._parse(exchange, data, head)

    def _parse(self, exchange: Exchange, data: bytes, head: bytes | None) -> None:
        problem: object = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            problem = error
        if self._size > MAX_RESPONSE_BYTES:
            problem = f"more than {MAX_RESPONSE_BYTES} bytes"
        if problem is not None:
            self.close()
            exchange.connection = None
            where = f"The response of Triton at {self._pool.url}"
            exchange.on_failure(BadUpstreamAnswer(f"{where} cannot be read: {problem}."))
        elif self._is_complete:
            response = TritonResponse(self._status, self._header_length, b"".join(self._parts))
            if head is not None and self._status == 200 and self._keeps:
                self._pool.remember(head, response)
            self._is_answered = False
            self._expect_response()
            self._finish(exchange, response, keeps=self._keeps)

    def on_message_begin(self) -> None:
        """Called by the parser, like the methods below."""
        if self._is_complete:
            self._keeps = False  # what follows a response was not asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the size of the JSON part."""
        if (
            len(name) == 31
            and name.lower() == b"inference-header-content-length"
            and value.isdigit()
            and len(value) <= _MAX_LENGTH_DIGITS
            and not self._is_complete
        ):
            self._header_length = int(value)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._size += len(body)
        if self._size <= MAX_RESPONSE_BYTES and not self._is_complete:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Note the end of the response."""
        status = self._parser.get_status_code()
        if not self._is_complete and status >= 200:  # what precedes a response is 1xx
            self._status = status
            self._keeps = self._parser.should_keep_alive()
            self._is_complete = True

    def _finish(self, exchange: Exchange, response: TritonResponse, *, keeps: bool = True) -> None:
        self._exchange = None
        exchange.connection = None
        if keeps:
            self._pool.keep(self)
        else:
            self.close()
        exchange.on_response(response)

    def eof_received(self) -> None:
        """Find out whether the server had received what was sent; the connection ends then."""
        self._pool.stop_using(self)
        if self._transport is not None:
            # Nothing that is sent after this is read.
            self._is_unread = self._exchange is None or _unacknowledged(self._transport) > 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the exchange in flight."""
        self._transport = None
        exchange, self._exchange = self._exchange, None
        self._pool.open.discard(self)
        self._pool.stop_using(self)
        if exchange is None:
            return
        exchange.connection = None
        seconds = self._pool.loop.time() - self._sent_at
        is_reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
        is_unread = self._is_unread or (is_reset and seconds < AT_ONCE_SECONDS)
        lost = ConnectionLost(
            self._pool.url,
            "closed by the server" if exc is None else str(exc) or type(exc).__name__,
            answered=self._is_answered,
            unread=is_unread and not self._is_answered,
            kept=self._exchanges > 1,
            seconds=seconds,
        )
        exchange.on_failure(lost)


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes written that the peer's kernel has not acknowledged; 0 where that is not known."""
    try:
        descriptor = transport.get_extra_info("socket").fileno()
        packed = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    except (AttributeError, OSError, ValueError):
        return 0
    return int(struct.unpack("i", packed)[0])
