"""The connections to one server, for the one hop that every prediction makes.

A general client library costs more per request than Triton's own work on a small model; this one
knows nothing of Triton. Nothing queues here: callers bound what they have in flight, so an
exchange takes an idle connection or opens its own, and a failed one affects its exchange alone.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final
from urllib.parse import urlsplit

from serving_gateway.errors import GatewayError, Overloaded
from serving_gateway.triton.exchange import (
    ConnectFailed,
    Connection,
    ConnectionLost,
    Exchange,
    TritonResponse,
)

MAX_CONNECTIONS: Final = 1024
"""Connections to one server, busy ones included; beyond it exchanges are refused."""
_MAX_CACHED_HEADS: Final = 256


class Connections:
    """The connections to one server, of which at most `idle` are kept while not in use.

    None is used beyond `max_age_seconds`, so that a draining server is left, and new servers behind
    a balancing address get their share. `server_name` is that of the certificate, where the address
    has an IP.
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
        self.url = url
        self.loop = asyncio.get_running_loop()
        self.idle: list[Connection] = []
        self.open: set[Connection] = set()
        self.heads: dict[bytes, tuple[int, int | None]] = {}
        """Heads of responses with status 200 that arrived whole -> sizes of body and JSON part."""
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._server_name = server_name if self._tls is not None else None
        self._most_idle = idle
        self._connect_seconds = connect_seconds
        self._max_age = max_age_seconds
        self._opening: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def busy(self) -> int:
        """Connections that carry an exchange."""
        return len(self.open) - len(self.idle)

    def start(self, exchange: Exchange) -> None:
        """Send the request on an idle connection, or a new one; its callbacks come later."""
        idle = self.idle
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
            self.loop.call_soon(exchange.on_failure, self._unreachable("the gateway is closing"))
        elif len(self.open) + len(self._opening) >= MAX_CONNECTIONS:
            error = f"Triton at {self.url} is asked too much at once: {MAX_CONNECTIONS} connections"
            self.loop.call_soon(exchange.on_failure, Overloaded(f"{error} are open already."))
        else:
            task = self.loop.create_task(self._open(exchange))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
        except (OSError, ValueError) as error:  # also TimeoutError, and invalid names
            if not exchange.is_abandoned:
                why = str(error) or f"no connection within {self._connect_seconds:g} s"
                exchange.on_failure(self._unreachable(why))
            return
        if exchange.is_abandoned:
            self.keep(connection)
        elif connection.is_lost:
            exchange.on_failure(ConnectionLost(self.url, "closed at once", unread=True))
        else:
            connection.send(exchange, self.loop.time())

    async def fetch(self, request: bytes) -> TritonResponse:
        """The response to a request; its connection is closed when the wait is cancelled."""
        fetch = _Fetch(request)
        self.start(fetch)
        try:
            return await fetch.future
        finally:
            if fetch.future.cancelled():
                fetch.drop()

    def _unreachable(self, why: str) -> ConnectFailed:
        return ConnectFailed(f"Triton at {self.url} cannot be reached: {why}.")

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose exchange is complete, when there is room."""
        if len(self.idle) >= self._most_idle or connection.is_lost:
            connection.close()
            return
        self.idle.append(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(self._max_age, self._drop_old)

    def _drop_old(self) -> None:
        self._sweep = None
        oldest = self.loop.time() - self._max_age
        for connection in [idle for idle in self.idle if idle.opened_at <= oldest]:
            self.stop_using(connection)
            connection.close()
        if self.idle:
            self._sweep = self.loop.call_later(self._max_age, self._drop_old)

    def stop_using(self, connection: Connection) -> None:
        """Stop using a connection that is ending."""
        if connection in self.idle:
            self.idle.remove(connection)

    def remember(self, head: bytes, response: TritonResponse) -> None:
        """Note what a head means, when it alone says where the response ends."""
        size = len(response.body)
        is_sized = b"\r\ncontent-length: %d\r\n" % size in head.lower() + b"\r\n"
        if is_sized and len(self.heads) < _MAX_CACHED_HEADS:
            self.heads[head] = (size, response.inference_header_length)

    def drop_idle(self) -> None:
        """Close the idle connections: their server is likely to be gone."""
        idle, self.idle = self.idle, []
        for connection in idle:
            connection.close()

    def retire(self) -> None:
        """Keep nothing any more; exchanges in flight go on."""
        self._most_idle = 0
        self.drop_idle()
        if self._sweep is not None:
            self._sweep.cancel()

    async def aclose(self) -> None:
        """Close everything; exchanges in flight are forgotten."""
        self._is_closed = True
        self.retire()
        for connection in [*self.open]:
            connection.close()
        for task in [*self._opening]:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)


class _Fetch(Exchange):
    """A request whose response a coroutine awaits."""

    __slots__ = ("future",)

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.future: asyncio.Future[TritonResponse] = asyncio.get_running_loop().create_future()

    def on_response(self, response: TritonResponse) -> None:
        if not self.future.done():
            self.future.set_result(response)

    def on_failure(self, error: GatewayError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
