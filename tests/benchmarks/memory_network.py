"""An event loop whose connections are kept in memory, so that only Python code is measured.

The one place that stands between the in-process benchmark and the gateway. It knows no class of
the gateway: servers and clients meet it as asyncio protocols, and uvicorn as the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Iterator
from typing import Any

import uvicorn
import uvloop

from serving_gateway.__main__ import main
from tests.benchmarks.triton_answers import answer_of


class _Transport(asyncio.Transport):
    """The half of a transport that both ends share."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_reading(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass


class TritonTransport(_Transport):
    """A connection to a Triton that answers at once: in the next turn of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        answers: dict[bytes, bytes],
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._answers = answers
        self._pending = b""
        self._delivery: asyncio.Handle | None = None
        self._socket = socket.socket()

    def write(self, data: Any) -> None:
        data = self._pending + data if self._pending else bytes(data)
        answer = self._answers.get(data)
        if answer is None:
            answer = answer_of(data)
            if answer is None:
                self._pending = data
                return
            self._answers[data] = answer
        self._pending = b""
        self._delivery = self._loop.call_soon(self._protocol.data_received, answer)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": ("127.0.0.1", 8000), "socket": self._socket}
        return known.get(name, default)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self._delivery is not None:
                self._delivery.cancel()
            self._socket.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close


class _Server:
    """What `create_server` returns: nothing listens."""

    sockets: tuple[socket.socket, ...] = ()

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        pass


class MemoryLoop(uvloop.Loop):
    """uvloop, but connections lead to a Triton in memory and servers get clients from memory.

    Those to `real_ports` are real.
    """

    def __init__(self, real_ports: Collection[int] = ()) -> None:
        super().__init__()
        self._real_ports = real_ports
        self.listening: dict[int, Callable[[], asyncio.Protocol]] = {}
        """Protocol factories by port."""
        self._answers: dict[bytes, bytes] = {}

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        if port in self._real_ports:
            return await super().create_connection(protocol_factory, host, port, **options)
        protocol = protocol_factory()
        transport = TritonTransport(self, protocol, self._answers)
        protocol.connection_made(transport)
        return transport, protocol

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: Any = None, port: int = 0, **_: Any
    ) -> Any:
        self.listening[port] = protocol_factory
        return _Server()


class MemoryClient(_Transport):
    """A client that sends its next request when the answer to the last one has come.

    Its answers are JSON objects, so the last byte of each is a brace.
    """

    def __init__(self, loop: MemoryLoop, port: int) -> None:
        super().__init__()
        self._loop = loop
        self._request = b""
        self._left = 0
        self._done: asyncio.Future[None] | None = None
        self.answers = b""
        """Of the last `send`, what did not begin as a success, to explain a failure."""
        self.succeeded = 0
        self._protocol = loop.listening[port]()
        self._protocol.connection_made(self)

    async def send(self, request: bytes, times: int = 1) -> int:
        """Send the request that often; how many answers were 200."""
        self._request, self._left, self.succeeded, self.answers = request, times, 0, b""
        self._done = self._loop.create_future()
        self._protocol.data_received(request)
        await self._done
        return self.succeeded

    def write(self, data: Any) -> None:
        if not isinstance(data, bytes):
            data = bytes(data)
        if data.startswith(b"HTTP/1.1 200"):
            self.succeeded += 1
        elif len(self.answers) < 2_000:
            self.answers += data
        if not data.endswith(b"}"):
            return
        self._left -= 1
        if self._left:
            self._loop.call_soon(self._protocol.data_received, self._request)
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8080)}
        return known.get(name, default)

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionResetError(self.answers.decode(errors="replace")))
        self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close


def gateway_config() -> uvicorn.Config:
    """The application and the server's options, as `python -m serving_gateway` wires them.

    Raises:
        RuntimeError: it ended before it came to a server.
    """
    captured: list[uvicorn.Config] = []

    def run(self: uvicorn.Server, *_: Any, **__: Any) -> None:
        captured.append(self.config)
        self.started = True

    with _replaced(uvicorn.Server, "run", run):
        main()
    if not captured:
        raise RuntimeError("the gateway did not start a server")
    return captured[0]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    former = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, former)


@contextlib.asynccontextmanager
async def serving(config: uvicorn.Config) -> Any:
    """Run a server in this loop, its lifespan included; yields once it takes connections."""
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("the server ended before it took connections")
        await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        await task
