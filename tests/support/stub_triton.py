"""A Triton server as far as the gateway's client can tell, inside the test process."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import httptools

from tests.support.servers import LOOPBACK
from tests.support.stub_model import StubModel

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/(\d+))?(?:/(\w+))?")


class StubTriton:
    """One server; what it does with the next request is set by its attributes.

    Attributes:
        ready: (model, version) pairs that are READY.
        status: of inferences.
        body: of inferences.
        delay: seconds before an inference is answered.
        hangs: whether requests stay without an answer, probes included.
        hangs_inferences: the same of inferences alone.
        dies: whether the next inference kills it, after it was read.
        drains: whether it closes new connections at once and goes on with the others.
        inferences: requests that were read, of inferences alone.
        connections: open ones.
        model: answers inferences of every model, instead of `body`.
        delays: seconds by model name, instead of `delay`.
    """

    def __init__(self) -> None:
        self.ready: set[tuple[str, int]] = {("m", 1)}
        self.status = 200
        self.body = b'{"model_version":"1","outputs":[]}'
        self.delay = 0.0
        self.hangs = False
        self.hangs_inferences = False
        self.dies = False
        self.drains = False
        self.inferences: list[bytes] = []
        self.probes = 0
        self.opened = 0
        self.connections: set[_Connection] = set()
        self.model: StubModel | None = None
        self.delays: dict[str, float] = {}
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Listen; on the former port after a stop."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def die(self) -> None:
        """End as a process does: the listening socket first, then every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.close_connections()

    def close_connections(self, *, reset: bool = False) -> None:
        """Close every connection, with or without a reset."""
        for one in [*self.connections]:
            one.end(reset=reset)

    async def stop(self) -> None:
        """End."""
        self.die()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    def __init__(self, stub: StubTriton) -> None:
        self.stub = stub
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpRequestParser(self)
        self.path = ""
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.stub.opened += 1
        self.stub.connections.add(self)
        if self.stub.drains:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.stub.connections.discard(self)

    def end(self, *, reset: bool = False) -> None:
        if self.transport is not None:
            if reset:
                linger = struct.pack("ii", 1, 0)
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path = url.decode()
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        stub = self.stub
        match = _PATH.fullmatch(self.path)
        name, version, what = ("", None, "live") if match is None else match.groups()
        if what == "infer":
            stub.inferences.append(self.body)
            if stub.dies:
                stub.die()
            elif not stub.hangs and not stub.hangs_inferences:
                status, size, body = stub.status, None, stub.body
                if stub.model is not None and status == 200:
                    status, size, body = stub.model.answer(int(version or 0), self.body)
                asyncio.get_running_loop().call_later(
                    stub.delays.get(name, stub.delay), self.reply, status, body, size
                )
            return
        stub.probes += 1
        if stub.hangs:
            return
        if what == "ready":
            self.reply(200 if (name, int(version or 0)) in stub.ready else 400, b"")
            return
        versions = sorted(str(number) for one, number in stub.ready if one == name)
        metadata = {"name": name, "versions": versions, "inputs": [], "outputs": []}
        if stub.model is not None:
            metadata |= stub.model.metadata()
        known = what == "live" or versions
        self.reply(200 if known else 400, json.dumps(metadata).encode())

    def reply(self, status: int, body: bytes, header_length: int | None = None) -> None:
        if self.transport is not None:
            head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n" % (status, len(body))
            if header_length is not None:
                head += b"Inference-Header-Content-Length: %d\r\n" % header_length
            self.transport.write(head + b"\r\n" + body)


@asynccontextmanager
async def run_stub() -> AsyncIterator[StubTriton]:
    """A stub that listens on a free port."""
    stub = StubTriton()
    await stub.start()
    try:
        yield stub
    finally:
        await stub.stop()
