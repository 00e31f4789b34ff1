"""The gateway's connection class over a transport in memory, before a fake Triton."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from serving_gateway.http.connection import GatewayConnection
from serving_gateway.http.connection_policy import ConnectionPolicy
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.http.security import Access
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.telemetry.metrics import Metrics
from tests.support.fake_triton import FakeTritonPlane


class FakeTransport(asyncio.Transport):
    """Keeps what is written; the peer reads all of it unless `takes` says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.protocol: GatewayConnection | None = None
        self.is_reading_now = True
        self.closed = False
        self.is_write_ended = False
        self.unread = 0
        """Bytes that the peer leaves unread: only `abort` ends the connection then."""
        self.is_lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Addresses only."""
        return {"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 81)}.get(name, default)

    def write(self, data: Any) -> None:
        """Take bytes."""
        assert not self.is_write_ended
        if not self.closed:
            self.sent += data

    def write_eof(self) -> None:
        """The peer reads the end once it has read the rest."""
        self.is_write_ended = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """What the peer has not read."""
        return self.unread

    def close(self) -> None:
        """End the connection on the next turn of the loop, or once the peer has read all."""
        self.closed = True
        if not self.unread:
            self.abort()

    def abort(self) -> None:
        """End it on the next turn."""
        self.closed = True
        if not self.is_lost:
            self.is_lost = True
            if self.protocol is not None:
                asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def pause_reading(self) -> None:
        """Stop reading."""
        self.is_reading_now = False

    def resume_reading(self) -> None:
        """Go on."""
        self.is_reading_now = True


class Response:
    """One parsed response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:80]!r}>"


class Responses:
    """Reads a stream of responses, final ones."""

    def __init__(self, data: bytes) -> None:
        self.found: list[Response] = []
        self.headers: dict[str, str] = {}
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """The next one."""
        self.headers, self.body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        """A part."""
        self.body += body

    def on_message_complete(self) -> None:
        """The end."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.found.append(Response(status, self.headers, self.body))


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes method, path and body, as a slow application would; `/early` before the body."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    content = b"%b %b %b" % (scope["method"].encode(), scope["raw_path"], body)
    headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": content})


class FakeServer:
    """Makes connections to one gateway."""

    def __init__(self, plane: FakeTritonPlane, **limits: Any) -> None:
        self.plane = plane
        self.lifecycle = Lifecycle()
        self.metrics = Metrics("r")
        hosted = SimpleNamespace(
            predictor=plane.predictor, open_inference=plane.open_inference, model_name="m"
        )
        hosting = SimpleNamespace(
            default=hosted,
            find=lambda name: hosted,
            resolve=lambda name: hosted,
            still_served=lambda name=None: {},
        )
        self.endpoint = InferenceEndpoint(
            plane.settings,
            cast(Any, hosting),
            self.lifecycle,
            Access(plane.settings),
            self.metrics,
            plane.offload,
        )
        self.policy = ConnectionPolicy(self.endpoint, plane.settings.model_copy(update=limits))
        self.policy.linger_seconds = 0.2
        self.state = ServerState()
        self._config = Config(
            cast(Any, application), loop="asyncio", ws="none", log_config=None, access_log=False
        )
        self._config.load()
        self.connection_class = GatewayConnection.with_policy(self.policy)

    def connect(self) -> FakeClient:
        """A new connection."""
        return FakeClient(self.connection_class(self._config, self.state, {}))

    async def answer(self, *parts: bytes, count: int = 1) -> list[Response]:
        """What one client gets for these reads of the server."""
        client = self.connect()
        client.send(*parts)
        found = await client.responses(count)
        client.leave()
        return found


class FakeClient:
    """The other end of a connection."""

    def __init__(self, connection: GatewayConnection) -> None:
        self.connection = connection
        self.transport = FakeTransport()
        self.transport.protocol = connection
        connection.connection_made(self.transport)

    def send(self, *parts: bytes) -> Self:
        """Send reads; what the server does not read any more is lost, as on a closed socket."""
        for part in parts:
            if not self.transport.closed:
                self.connection.data_received(part)
        return self

    async def responses(self, count: int, seconds: float = 5) -> list[Response]:
        """Wait for so many responses, or for the end of the connection."""
        async with asyncio.timeout(seconds):
            while True:
                found = Responses(bytes(self.transport.sent)).found
                if len(found) >= count or (self.transport.closed):
                    return found
                await asyncio.sleep(0.001)

    def leave(self) -> None:
        """Close."""
        self.transport.close()


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """A request as bytes."""
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: gateway",
        "Content-Type: application/json",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def fake_server(home: Path, **limits: Any) -> FakeServer:
    """A server whose model `m` is at version 1."""
    plane = FakeTritonPlane(home)
    plane.route(A=1)
    return FakeServer(plane, **limits)
