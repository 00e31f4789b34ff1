"""One client connection: uvicorn's, with inference answered in callbacks and limits of its own.

The only file that knows uvicorn's internals. Requests for inference are parsed, queued and
answered here without an ASGI scope, a task or a future; all others take uvicorn's usual way. For
uvicorn a `ConnectionExchange` stands where its own `RequestResponseCycle` would.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving_gateway.batching import ByteBudget
from serving_gateway.errors import (
    GatewayError,
    HeadTooLarge,
    MalformedRequest,
    Overloaded,
    RequestTimeout,
    TooLarge,
)
from serving_gateway.http.inference_endpoint import HttpExchange, InferenceEndpoint, Route

log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 1.0
_MAX_OFFERS: Final = 16
"""Offers of another protocol in one read; clients make one on each connection."""
_MAX_PIPELINED: Final = 256
"""Requests on one connection that wait for the answers to earlier ones."""
_MAX_AT_ONCE: Final = 32
"""Requests of one read that are started before the event loop gets its turn."""
_KEPT_DESCRIPTORS: Final = 256
"""Descriptors of the process that clients leave to Triton, the stores and files; at most half."""
_ONCE: Final = frozenset([b"host", b"content-length", b"content-type", b"authorization"])
"""Headers that two readers would understand differently when they came twice."""


def _most_connections() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**20 if limit == resource.RLIM_INFINITY else max(limit // 2, limit - _KEPT_DESCRIPTORS)


@dataclass(slots=True)
class ConnectionPolicy:
    """What all connections of a process share.

    Attributes:
        endpoint: answers requests for inference.
        budget: bytes held for requests that are not answered yet.
        max_head_bytes: largest target and headers together.
        max_body_bytes: largest body.
        head_seconds: limit for receiving a head, from its first byte on.
        body_seconds: limit for receiving a request, and for a client to take a response.
        keep_alive_seconds: how long an idle connection is kept.
        linger_seconds: how long what a refused client still sends is read and dropped, so that it
            sees the refusal instead of a reset.
        max_connections: most clients at one time; a new one takes the place of one that has no
            request under way, or is refused. So clients never take all descriptors.
    """

    endpoint: InferenceEndpoint
    budget: ByteBudget
    max_head_bytes: int
    max_body_bytes: int
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    linger_seconds: float = 5.0
    max_connections: int = field(default_factory=_most_connections)
    connections: set[GatewayConnection] = field(default_factory=set)

    async def sweep(self) -> None:
        """End what is overdue, until cancelled: one coarse timer for all connections."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in [*self.connections]:
                connection.enforce_timeouts(now)

    def connection_class(self) -> type[GatewayConnection]:
        """The class for uvicorn's `http` option."""
        return type("BoundConnection", (GatewayConnection,), {"policy": self})


class _NoEvent:
    """Stands for the event of uvicorn's cycle: nothing waits for an exchange."""

    def set(self) -> None:
        """Nothing to wake."""


class ConnectionExchange(HttpExchange):
    """One request for inference on a connection, and its response."""

    __slots__ = (
        "connection",
        "disconnected",
        "is_queued",
        "keep_alive",
        "more_body",
        "response_complete",
        "response_started",
    )

    message_event: Final = _NoEvent()

    def __init__(
        self,
        connection: GatewayConnection,
        endpoint: InferenceEndpoint,
        route: Route,
        headers: list[tuple[bytes, bytes]],
        fields: dict[bytes, bytes],
        keep_alive: bool,
    ) -> None:
        # Like `HttpExchange.__init__`, in one call: this is made for every request.
        self.endpoint = endpoint
        self.route = route
        self.headers = headers
        self.fields = fields
        self.body = b""
        self.call = None
        self.span = None
        self.connection = connection
        self.keep_alive = keep_alive
        self.is_queued = False
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    def write(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole response at once: one system call, one packet, one read for the client.

        Args:
            status: of HTTP.
            headers: lines that end with CRLF.
            body: the whole body.
        """
        if self.response_complete or self.disconnected:
            return
        self.response_started = self.response_complete = True
        self.body = b""  # the connection keeps its last request while it is idle
        connection = self.connection
        if not self.keep_alive:
            headers += b"connection: close\r\n"
        connection.transport.write(
            b"%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[status], headers, len(body), body)
        )
        if not self.keep_alive:
            connection.close_gracefully()
        connection.on_response_complete()


class GatewayConnection(HttpToolsProtocol):
    """A connection under a `ConnectionPolicy`."""

    policy: ConnectionPolicy
    cycle: Any
    """The newest request: a `ConnectionExchange` or uvicorn's own."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        policy = self.policy
        self._endpoint = policy.endpoint
        self._routes = policy.endpoint.routes
        self._max_head = policy.max_head_bytes
        self._running: Any = None
        """The oldest request that is not answered, or the last one that was."""
        self._at_once = 0
        """Requests of this read that were started."""
        self._held = 0
        """Bytes of an unfinished body that the budget was charged for."""
        self._in_head = False
        """Whether what comes next belongs to a head, or to trailers after the chunks of a body."""
        self._head_is_over = False
        self._seen = 0
        """Bytes of an unfinished head or trailers that came in earlier reads."""
        self._is_large_read = False
        self._is_incomplete = False
        """Whether a message has begun and not ended."""
        self._incomplete_since: float | None = None
        self._idle_since = self.loop.time()
        self._write_paused_since: float | None = None
        self._has_ignored_upgrade = False
        self._refusal: GatewayError | None = None
        self._is_lingering = False

    # Called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        connections = self.policy.connections
        if len(connections) >= self.policy.max_connections:
            idle = next((one for one in connections if not one.is_busy), None)
            if idle is None:
                self.refuse(Overloaded(f"{len(connections)} clients are connected already."))
            else:
                connections.discard(idle)
                idle.transport.close()
        connections.add(self)

    @property
    def is_busy(self) -> bool:
        """Whether a request that has begun to be read waits for its response."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: what it waited for is abandoned."""
        self.policy.connections.discard(self)
        for cycle in (self._running, *(queued for queued, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                if isinstance(cycle, ConnectionExchange):
                    self._endpoint.abandon(cycle)
        self.pipeline.clear()
        self._release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._refusal is not None:
            return
        # Only a head that came in pieces, or in a read beyond the limit, has to be measured.
        self._is_large_read = len(data) > self._max_head
        self._at_once = 0
        if not self._feed(data):
            return
        if self._is_incomplete:
            self._note_incomplete(len(data))
        elif self._incomplete_since is not None:
            self._note_complete()

    def pause_writing(self) -> None:
        """The client reads too slowly: it does not get to ask for more."""
        super().pause_writing()
        self.flow.pause_reading()
        self._write_paused_since = self.loop.time()

    def resume_writing(self) -> None:
        """The client has caught up: go on with what it sent meanwhile."""
        super().resume_writing()
        self._write_paused_since = None
        if self.pipeline:
            self.loop.call_soon(self._start_queued)
        else:
            self.flow.resume_reading()

    # Called by the parser

    def on_message_begin(self) -> None:
        """A head begins."""
        self.url = b""
        self.headers = []
        self._in_head = self._is_incomplete = True
        self._head_is_over = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are dropped."""
        if not self._head_is_over:
            self.headers.append((name.lower(), value))

    def on_chunk_header(self) -> None:
        """A chunk begins: its bytes or, after the last one, trailers."""
        self._in_head = True
        self._seen = 0

    def on_headers_complete(self) -> None:
        """The head ends: the request goes to inference, or to the application."""
        self._in_head = False
        self._head_is_over = True
        if self._seen or self._is_large_read:
            self._check_head_size()
        headers = self.headers
        fields = dict(headers)
        if b"upgrade" in fields and self.parser.should_upgrade():
            # HTTP/2 over cleartext, which Java's client offers with every first request: RFC 9110
            # lets a server answer as if that was not there, but the parser stops at it.
            self._has_ignored_upgrade = True
            return
        if len(fields) != len(headers) or b"host" not in fields:
            self._check_fields(fields)
        if len(self.pipeline) >= _MAX_PIPELINED:
            error = Overloaded(f"{_MAX_PIPELINED} requests wait on this connection already.")
            self.refuse(error)
            raise error  # stops the parser, which reports that it was stopped
        parser = self.parser
        route = self._routes.known.get(self.url) or self._routes.parse(self.url)
        if (
            route is None
            or parser.get_method() != b"POST"
            or b"content-encoding" in fields
            or b"expect" in fields
            or b"origin" in fields
        ):
            # What needs decompression, a continuation or CORS is the application's, too.
            self._start_application(fields)
            return
        # A client of HTTP/1.0 that asks for keep-alive waits for a header that 1.1 does not have.
        keep_alive = parser.should_keep_alive() and (
            b"connection" not in fields or parser.get_http_version() == "1.1"
        )
        exchange = ConnectionExchange(self, self._endpoint, route, headers, fields, keep_alive)
        earlier, self.cycle = self.cycle, exchange
        self._at_once += 1
        if (
            (earlier is not None and not earlier.response_complete)
            or self._at_once > _MAX_AT_ONCE
            or self.flow.write_paused
        ):
            self._queue(exchange)
        else:
            self._running = exchange
        announced = fields.get(b"content-length")
        if announced is not None and (
            len(announced) > 18 or int(announced) > self.policy.max_body_bytes
        ):
            self.refuse(_too_large(self.policy.max_body_bytes))

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._in_head = False
        cycle = self.cycle
        if type(cycle) is not ConnectionExchange:
            if not self._has_ignored_upgrade:
                super().on_body(body)
        elif not cycle.response_complete:
            if not cycle.body:
                cycle.body = body
            else:
                if isinstance(cycle.body, bytes):
                    cycle.body = bytearray(cycle.body)
                cycle.body += body
            if len(cycle.body) > self.policy.max_body_bytes:
                self.refuse(_too_large(self.policy.max_body_bytes))

    def on_message_complete(self) -> None:
        """A request ends."""
        self._in_head = self._is_incomplete = False
        cycle = self.cycle
        if self._has_ignored_upgrade:
            return
        if cycle is not None and cycle.response_complete:
            cycle.more_body = False  # answered before its body had come, which now has
        elif type(cycle) is not ConnectionExchange:
            super().on_message_complete()
        elif self._refusal is None:
            cycle.more_body = False
            if not cycle.is_queued:
                self._endpoint.start(cycle)

    # Called by the server, and by the cycles

    def on_response_complete(self) -> None:
        """A response was written: go on with the next request."""
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        flow = self.flow
        if flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self.loop.call_soon(self._start_queued)
        elif flow.read_paused:
            flow.resume_reading()

    def shutdown(self) -> None:
        """The server ends: what is under way is answered, nothing else is waited for."""
        if self._is_lingering:
            self.transport.close()
        else:
            super().shutdown()

    def close_gracefully(self) -> None:
        """Close once what was written is sent."""
        if not self._is_lingering:
            self.transport.close()

    def refuse(self, error: GatewayError) -> None:
        """Answer the request that is being received with an error, and end the connection.

        While earlier requests on it are being answered nothing is said: it would be taken for
        their answer. They are still answered.
        """
        if self._refusal is not None:
            return
        self._refusal = error
        self._release()
        cycle, running = self.cycle, self._running
        if self.pipeline and cycle.more_body:
            self.pipeline.popleft()
        is_answered = running is None or running.response_complete
        if self.pipeline or not (is_answered or (running is cycle and cycle.more_body)):
            last: Any = self.pipeline[0][0] if self.pipeline else running
            last.keep_alive = False
        elif (is_answered and running is cycle and running is not None and running.more_body) or (
            not is_answered and cycle.response_started
        ):
            self.transport.close()  # this very request has its answer
        else:
            self._write_refusal(error)

    def _write_refusal(self, error: GatewayError) -> None:
        cycle, route = self.cycle, None
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            cycle.body = b""
            route = cycle.route if type(cycle) is ConnectionExchange else None
        headers, body = self._endpoint.describe_refusal(error, route)
        self.transport.write(
            b"%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINE[error.status], headers, len(body), body)
        )
        self._is_lingering = True
        self.flow.resume_reading()
        self.loop.call_later(self.policy.linger_seconds, self.transport.close)

    def enforce_timeouts(self, now: float) -> None:
        """End the connection when it is overdue."""
        policy = self.policy
        if self._refusal is not None:
            return
        if self._write_paused_since is not None:
            if now - self._write_paused_since > policy.body_seconds:
                self.transport.abort()
        elif self._is_incomplete:
            limit = policy.body_seconds if self._head_is_over else policy.head_seconds
            if self._incomplete_since is not None and now - self._incomplete_since > limit:
                part = "body" if self._head_is_over else "head"
                self.refuse(
                    RequestTimeout(
                        f"The {part} of the request was not complete within {limit:g} s."
                    )
                )
        elif not self.is_busy and now - self._idle_since > policy.keep_alive_seconds:
            self.transport.close()

    def _start_application(self, fields: dict[bytes, bytes]) -> None:
        """Hand a request to the application, in uvicorn's way."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = fields.get(b"expect", b"").lower() == b"100-continue"
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def _start_queued(self) -> None:
        running = self._running
        if (
            not self.pipeline
            or self.flow.write_paused
            or self.transport.is_closing()
            or not (running is None or running.response_complete)
        ):
            return
        queued, app = self.pipeline.pop()
        cycle: Any = queued
        self._running = cycle
        if not self.pipeline:
            self.flow.resume_reading()
        if type(cycle) is not ConnectionExchange:
            self._start_asgi_task(cycle, app)
            return
        cycle.is_queued = False
        if not cycle.more_body:
            self._endpoint.start(cycle)

    def _queue(self, exchange: ConnectionExchange) -> None:
        """Have a request wait until the earlier ones are answered."""
        exchange.is_queued = True
        self.flow.pause_reading()
        self.pipeline.appendleft((cast(Any, exchange), self.app))
        if len(self.pipeline) == 1:
            self.loop.call_soon(self._start_queued)

    def _feed(self, data: bytes) -> bool:
        """Parse a read; False when it was refused.

        Requests that offer another protocol are parsed again without that.
        """
        for _ in range(_MAX_OFFERS):
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._has_ignored_upgrade:
                    break  # CONNECT
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self.refuse(MalformedRequest(f"This is not a valid HTTP request: {error}"))
                return False
            else:
                return self._refusal is None
        self.refuse(MalformedRequest("The connection cannot be used for another protocol."))
        return False

    def _without_upgrade(self) -> bytes:
        """The head that was just parsed, without its offer."""
        self._has_ignored_upgrade = False
        hidden = {b"upgrade", b"http2-settings", b"connection"}
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        head += [b"%b: %b\r\n" % one for one in self.headers if one[0] not in hidden]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join([*head, b"\r\n"])

    def _note_incomplete(self, size: int) -> None:
        """Account for a message that is not complete at the end of a read of `size` bytes."""
        if self._incomplete_since is None:
            self._incomplete_since = self.loop.time()
        if self._in_head:
            # Where the head began in this read, its other bytes belong to something else.
            self._seen += size if self._seen else self._head_size()
            if self._seen > self._max_head:
                self.refuse(self._head_too_large())
        elif not self.policy.budget.take(size):
            self.refuse(
                Overloaded(
                    f"Unfinished requests hold {self.policy.budget.held} bytes, as many as they "
                    "may (GATEWAY_MAX_PENDING_BYTES). Try again.",
                    code="too_many_bytes",
                )
            )
        else:
            self._held += size

    def _note_complete(self) -> None:
        self._incomplete_since = None
        self._seen = 0
        self._release()

    def _head_size(self) -> int:
        fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return 1 + len(self.url) + fields

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"The target and headers of the request are over {self.policy.max_head_bytes} bytes, "
            "the most taken."
        )

    def _check_head_size(self) -> None:
        self._seen = 0
        if self._head_size() > self._max_head:
            error = self._head_too_large()
            self.refuse(error)
            raise error  # stops the parser, which reports that it was stopped

    def _check_fields(self, fields: dict[bytes, bytes]) -> None:
        """Refuse a request whose headers contradict each other (RFC 9112)."""
        names = [name for name, _ in self.headers]
        twice = sorted(name for name in _ONCE if names.count(name) > 1)
        lacks_host = b"host" not in fields and self.parser.get_http_version() == "1.1"
        if twice or lacks_host:
            what = f"names {twice[0].decode()} twice" if twice else "has no Host header"
            error = MalformedRequest(f"The request {what}.", code="malformed_head")
            self.refuse(error)
            raise error

    def _release(self) -> None:
        self.policy.budget.release(self._held)
        self._held = 0


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is over {limit} bytes, the most that is taken.")
