"""One HTTP/1.1 connection to a server: writes prepared bytes and calls back with the response."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Final, Protocol, cast

import httptools

from serving_gateway.triton.exchange import (
    ConnectionLost,
    Exchange,
    MalformedResponse,
    TritonResponse,
)

MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
AT_ONCE_SECONDS: Final = 0.1
"""A connection lost so soon after a request was not lost over the work on it."""
_MAX_SIMPLE_BYTES: Final = 65_536
_MAX_LENGTH_DIGITS: Final = 18
_KEEPALIVE_SECONDS: Final = 10


class Pool(Protocol):
    """What a connection tells of itself."""

    loop: asyncio.AbstractEventLoop
    heads: dict[bytes, tuple[int, int | None]]
    """Heads of responses with status 200 that arrived whole -> sizes of body and JSON part."""

    def opened(self, connection: Connection) -> None:
        """It was made."""

    def keep(self, connection: Connection) -> None:
        """Its exchange is complete."""

    def ending(self, connection: Connection) -> None:
        """It takes no exchange any more."""

    def closed(self, connection: Connection) -> None:
        """It has ended."""

    def remember(self, head: bytes, size: int, header_length: int | None) -> None:
        """A head came with a body of this size."""


class Connection(asyncio.Protocol):
    """One connection that carries one exchange at a time.

    Attributes:
        exchanges: how many it has carried.
        opened_at: `loop.time()`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._reader = _ResponseReader()
        self._sent_at = 0.0
        self._is_answered = False
        self._is_unread = False
        self.exchanges = 0
        self.opened_at = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether it has ended."""
        return self._transport is None

    def send(self, exchange: Exchange, now: float) -> None:
        """Write the request; the connection is the exchange's until its response is complete."""
        self._exchange = exchange
        exchange.connection = self
        self._sent_at = now
        self.exchanges += 1
        assert self._transport is not None  # noqa: S101 -- only connected ones are handed out
        self._transport.write(exchange.request)

    def close(self) -> None:
        """Close it; an exchange under way is forgotten."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the kernel notice a peer that vanished."""
        self._transport = cast(asyncio.Transport, transport)
        self._pool.opened(self)
        self.opened_at = self._pool.loop.time()
        made = transport.get_extra_info("socket")
        if made is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Read a response, or a part of one."""
        exchange, reader = self._exchange, self._reader
        if exchange is None:
            # Not asked for: what comes next could be taken for another exchange's response.
            self._pool.ending(self)
            self.close()
            return
        if self._is_answered or len(data) > _MAX_SIMPLE_BYTES:
            head = None
        else:
            # A head seen before means what it meant then: nearly all responses end here.
            head, _, body = data.partition(b"\r\n\r\n")
            known = self._pool.heads.get(head)
            if known is not None and known[0] == len(body):
                self._finish(exchange, TritonResponse(200, known[1], body))
                return
        self._is_answered = True
        try:
            response = reader.feed(data)
        except (httptools.HttpParserError, ValueError) as error:
            self.close()
            exchange.connection = None
            exchange.on_failure(MalformedResponse(str(error)))
            return
        if response is not None:
            self._is_answered = False
            if head is not None and response.status == 200 and reader.keeps:
                self._pool.remember(head, len(response.body), response.inference_header_length)
            self._finish(exchange, response, keeps=reader.keeps)

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
        self._pool.ending(self)
        if self._transport is not None:
            # Whatever is sent after this is not read either.
            self._is_unread = self._exchange is None or _unacknowledged(self._transport) > 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the exchange under way."""
        self._transport = None
        exchange, self._exchange = self._exchange, None
        self._pool.closed(self)
        if exchange is None:
            return
        exchange.connection = None
        seconds = self._pool.loop.time() - self._sent_at
        is_reset = isinstance(exc, ConnectionResetError | BrokenPipeError)
        is_unread = self._is_unread or (is_reset and seconds < AT_ONCE_SECONDS)
        lost = ConnectionLost(
            "closed by the server" if exc is None else str(exc) or type(exc).__name__,
            answered=self._is_answered,
            unread=is_unread and not self._is_answered,
            kept=self.exchanges > 1,
            seconds=seconds,
        )
        exchange.on_failure(lost)


class _ResponseReader:
    """Puts responses together; httptools swallows what its callbacks raise, so none calls out.

    Attributes:
        keeps: whether the connection can be used again.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._size = 0
        self._status = 0
        self._header_length: int | None = None
        self._is_complete = False
        self.keeps = False

    def feed(self, data: bytes) -> TritonResponse | None:
        """The response, once it is complete.

        Raises:
            HttpParserError: this is not HTTP.
            ValueError: it is too large.
        """
        self._parser.feed_data(data)
        if self._size > MAX_RESPONSE_BYTES:
            raise ValueError(f"more than {MAX_RESPONSE_BYTES} bytes")
        if not self._is_complete:
            return None
        parts, length = self._parts, self._header_length
        self._parts, self._size, self._header_length = [], 0, None
        self._is_complete = False
        return TritonResponse(
            self._status, length, parts[0] if len(parts) == 1 else b"".join(parts)
        )

    def on_message_begin(self) -> None:
        if self._is_complete:
            self.keeps = False  # what follows a response was not asked for

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
        status = self._parser.get_status_code()
        if not self._is_complete and status >= 200:  # what precedes a response is 1xx
            self._status = status
            self.keeps = self._parser.should_keep_alive()
            self._is_complete = True


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes written that the peer's kernel has not acknowledged; 0 where that is not known."""
    try:
        descriptor = transport.get_extra_info("socket").fileno()
        found = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    except (AttributeError, OSError, ValueError):
        return 0
    return int(struct.unpack("i", found)[0])
