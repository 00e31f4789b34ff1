"""One client connection: uvicorn's, with inference answered in callbacks and limits of its own.

The only file that knows uvicorn's internals. Requests for inference are parsed, queued and answered
here without an ASGI scope, a task or a future; all others take uvicorn's usual path.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NoReturn, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving_gateway.errors import GatewayError, MalformedRequest, Overloaded
from serving_gateway.http.connection_policy import ConnectionPolicy, IncompleteMessages
from serving_gateway.http.inference_endpoint import HttpExchange
from serving_gateway.http.request_head import check_head, head_size, head_without_upgrade

_MAX_OFFERS: Final = 16
"""Offers of another protocol in one read; clients make one on each connection."""
_MAX_PIPELINED: Final = 256
"""Requests on one connection that wait for the answers to earlier ones."""
_MAX_AT_ONCE: Final = 32
"""Requests of one read that are started before the event loop gets its turn."""
_FOR_APPLICATION: Final = frozenset([b"content-encoding", b"expect", b"origin", b"upgrade"])
"""Decompression, continuations and CORS are left to the application, also for predictions."""
_NOTHING, _HEAD, _BODY, _TRAILERS = range(4)
"""Which part of a message comes next; after a chunk it may be trailers."""


class ConnectionExchange(HttpExchange):
    """One request for inference; uvicorn takes it for its own `RequestResponseCycle`."""

    __slots__ = ("connection", "disconnected", "keep_alive", "more_body", "response_complete")

    message_event: Final = asyncio.Event()  # uvicorn sets it; nothing waits for it
    response_started: Final = False  # while its body is received
    connection: GatewayConnection
    keep_alive: bool
    more_body: bool
    disconnected: bool
    response_complete: bool

    def write(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole response at once: one system call, one packet, one read for the client."""
        if self.response_complete or self.disconnected:
            return
        self.response_complete = True
        self.body = b""  # the connection keeps its last request while it is idle
        connection = self.connection
        if not self.keep_alive:
            headers += b"connection: close\r\n"
        connection.transport.write(
            b"%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINE[status], headers, self.request_id, len(body), body)
        )
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()


class GatewayConnection(HttpToolsProtocol):
    """A connection under a `ConnectionPolicy`."""

    policy: ConnectionPolicy
    cycle: Any
    """The newest request: a `ConnectionExchange` or uvicorn's own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        policy = self.policy
        policy.connections = self.connections
        self._endpoint = policy.endpoint
        self._routes = policy.endpoint.routes
        self._max_head = policy.settings.max_head_bytes
        self._max_body = policy.settings.max_body_bytes
        self._running: Any = None
        """The oldest unanswered request, or the last answered one."""
        self._at_once = 0
        """Requests started in this read."""
        self._part = _NOTHING
        self._unfinished = IncompleteMessages(policy)
        self._is_large_read = False
        self._has_begun = False
        """Whether the current message began in this read."""
        self._idle_since = self.loop.time()
        self._write_paused_since = 0.0
        self._has_offer = False
        """Whether the head just parsed offers another protocol."""
        self._refusal: GatewayError | None = None

    @classmethod
    def with_policy(cls, policy: ConnectionPolicy) -> type[GatewayConnection]:
        """A class bound to the policy, for uvicorn's `http` option."""
        return type("BoundConnection", (cls,), {"policy": policy})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a client; at the limit, drop an idle one for it, or refuse it."""
        is_full = len(self.connections) >= self.policy.max_connections
        super().connection_made(transport)
        if not is_full:
            return
        others = cast("set[GatewayConnection]", self.connections - {self})
        idle = next((other for other in others if not other.is_busy), None)
        if idle is None:
            self.refuse(Overloaded(f"{len(others)} clients are connected already."))
        else:
            self.connections.discard(idle)
            idle.transport.abort()  # `close` would wait for a client that does not read

    @property
    def is_busy(self) -> bool:
        """Whether a request that has begun to arrive waits for its response."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Abandon what the client waited for: it has left."""
        for cycle in (self._running, *(queued for queued, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                if isinstance(cycle, ConnectionExchange):
                    self._endpoint.abandon(cycle)
        self.pipeline.clear()
        self._unfinished.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes, offers: int = _MAX_OFFERS) -> None:
        """Parse what the client has sent."""
        if self._refusal is not None:
            return
        # Only a head that came in pieces, or in a read larger than the limit, has to be measured.
        self._is_large_read = len(data) > self._max_head
        self._has_begun = False
        self._at_once = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._has_offer and offers:
                rest = data[upgrade.args[0] :]
                self.data_received(self._head_without_upgrade() + rest, offers - 1)
            else:  # CONNECT, or a flood
                self.refuse(MalformedRequest("This connection is for HTTP/1.1 only."))
            return
        except httptools.HttpParserError as error:
            self.refuse(MalformedRequest(f"This is not a valid HTTP request: {error}"))
            return
        if self._part:
            size = len(data)
            if self._has_begun:  # the rest of the read belongs to messages before it
                self._unfinished.end()
                received = 0 if self.cycle is None else len(self.cycle.body)
                size = min(size, head_size(self.url, self.headers) + received)
            head = None if self._part == _BODY else (self.url, self.headers)
            if refusal := self._unfinished.add(size, head, self.loop.time()):
                self.refuse(refusal)
        elif self._unfinished.since:
            self._unfinished.end()

    def pause_writing(self) -> None:
        """Stop reading: the client reads too slowly to be allowed further requests."""
        super().pause_writing()
        self.flow.pause_reading()
        self._write_paused_since = self.loop.time()

    def resume_writing(self) -> None:
        """Continue with what the client sent meanwhile: it has caught up."""
        super().resume_writing()
        self._write_paused_since = 0.0
        self._continue()

    # Called by the parser

    def on_message_begin(self) -> None:
        """A head begins."""
        self._has_begun = True
        self.url = b""
        self.headers = []
        self._part = _HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header or a trailer."""
        self.headers.append((name.lower(), value))

    def on_chunk_header(self) -> None:
        """A chunk begins: its bytes or, after the last one, trailers, which are dropped."""
        self.headers = []
        self._part = _TRAILERS
        self._unfinished.head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head ends: the request goes to inference, or to the application."""
        self._part = _BODY
        if self._unfinished.head_bytes or self._is_large_read:
            self._unfinished.head_bytes = 0
            if head_size(self.url, self.headers) > self._max_head:
                self._reject(self.policy.head_too_large())
        headers = self.headers
        fields = dict(headers)
        if (len(fields) != len(headers) or b"host" not in fields) and (
            error := check_head(headers, self.parser.get_http_version())
        ):
            self._reject(error)
        if self.pipeline and len(self.pipeline) >= _MAX_PIPELINED:
            self._reject(Overloaded("Too many requests wait on this connection already."))
        parser = self.parser
        route = self._routes[self.url]
        if (
            route is None
            or parser.get_method() != b"POST"
            or not _FOR_APPLICATION.isdisjoint(fields)
        ):
            # HTTP/2 over cleartext, which Java's client offers with every first request: RFC 9110
            # lets a server ignore the offer, but the parser stops at it.
            self._has_offer = b"upgrade" in fields and parser.should_upgrade()
            if not self._has_offer:
                self._start_application(fields)
            return
        # An HTTP/1.0 client that asks for keep-alive expects a header that HTTP/1.1 does not have.
        keep_alive = parser.should_keep_alive() and (
            b"connection" not in fields or parser.get_http_version() == "1.1"
        )
        exchange = ConnectionExchange(self._endpoint, route, headers, fields)
        exchange.connection, exchange.keep_alive, exchange.more_body = self, keep_alive, True
        exchange.disconnected = exchange.response_complete = False
        earlier, self.cycle = self.cycle, exchange
        self._at_once += 1
        if (
            (earlier is not None and not earlier.response_complete)
            or self._at_once > _MAX_AT_ONCE
            or self.flow.write_paused
        ):
            self.flow.pause_reading()
            self.pipeline.appendleft((cast(Any, exchange), self.app))
            if len(self.pipeline) == 1:
                self.loop.call_soon(self._start_queued)
        else:
            self._running = exchange
        announced = fields.get(b"content-length")
        if announced is not None and int(announced) > self._max_body:
            self._reject(self.policy.body_too_large())

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._part = _BODY
        cycle = self.cycle
        if type(cycle) is not ConnectionExchange:
            super().on_body(body)
            return
        if not cycle.body:
            cycle.body = body
        else:
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        if len(cycle.body) > self._max_body:
            self._reject(self.policy.body_too_large())

    def on_message_complete(self) -> None:
        """A request ends."""
        self._part = _NOTHING
        cycle = self.cycle
        if self._has_offer:
            return
        cycle.more_body = False
        if type(cycle) is not ConnectionExchange:
            cycle.message_event.set()
        elif cycle is self._running:
            self._endpoint.start(cycle)

    # Called by the cycles and the policy

    def on_response_complete(self) -> None:
        """Continue with the next request: a response was written."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.flow.read_paused:
            self._continue()

    def enforce_timeouts(self, now: float) -> None:
        """End the connection when it is overdue.

        Even one that is being closed: its transport waits for the client to read the rest.
        """
        limits = self.policy.settings
        unread_since = self._write_paused_since
        if not unread_since and not self.is_busy and self.transport.get_write_buffer_size():
            unread_since = self._idle_since
        if unread_since:
            if now - unread_since > limits.body_seconds:
                self.transport.abort()
        elif self._refusal is not None:
            return
        elif self._part:
            if error := self._unfinished.check_timeout(now, in_head=self._part == _HEAD):
                self.refuse(error)
        elif not self.is_busy and now - self._idle_since > limits.keep_alive_seconds:
            self.transport.close()

    def refuse(self, error: GatewayError) -> None:
        """Answer the request that is being received with an error, and end the connection.

        While earlier requests on it are being answered, no error is sent: it would be taken for
        their answer. They are still answered.
        """
        if self._refusal is not None:
            return
        self._refusal = error
        self._unfinished.end()
        cycle = self.cycle
        received = cycle if cycle is not None and cycle.more_body else None
        if self.pipeline and received is not None:
            self.pipeline.popleft()
        last: Any = self.pipeline[0][0] if self.pipeline else self._running
        if last is not None and last is not received and not last.response_complete:
            last.keep_alive = False
        elif received is not None and received is last and received.response_started:
            self.transport.close()  # this request has been answered already
        else:
            self._write_refusal(error)

    def _write_refusal(self, error: GatewayError) -> None:
        cycle, route = self.cycle, None
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
            cycle.body = b""
            route = getattr(cycle, "route", None)
        self._idle_since = self.loop.time()
        headers, body = self._endpoint.describe_refusal(error, route)
        self.transport.write(
            b"%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINE[error.status], headers, len(body), body)
        )
        self.transport.write_eof()  # a client that reads to the end need not wait for the rest
        self.flow.resume_reading()
        self.loop.call_later(self.policy.linger_seconds, self.transport.close)

    def _reject(self, error: GatewayError) -> NoReturn:
        """Refuse within a callback of the parser; the exception stops the parser."""
        self.refuse(error)
        raise error

    def _start_application(self, fields: dict[bytes, bytes]) -> None:
        """Hand a request to the application, as uvicorn does."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = fields.get(b"expect", b"").lower() == b"100-continue"
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def _continue(self) -> None:
        if self.flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self.loop.call_soon(self._start_queued)
        else:
            self.flow.resume_reading()

    def _start_queued(self) -> None:
        if not self.pipeline or self.flow.write_paused or self.transport.is_closing():
            return
        if self._running is not None and not self._running.response_complete:
            return
        self._running, app = self.pipeline.pop()
        if not self.pipeline:
            self.flow.resume_reading()
        if type(self._running) is not ConnectionExchange:
            self._start_asgi_task(self._running, app)
        elif not self._running.more_body:
            self._endpoint.start(self._running)

    def _head_without_upgrade(self) -> bytes:
        self._has_offer = False
        parser = self.parser
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return head_without_upgrade(
            parser.get_method(), self.url, parser.get_http_version(), self.headers
        )
