"""The connection to Redis: replies in order and in any pieces, its limit, its loss and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving_gateway.features.redis_reader import RedisPipeline
from tests.support.servers import free_port

PING = b"*1\r\n$4\r\nPING\r\n"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers as a test says."""

    def __init__(self, serve: Serve, port: int, limit_seconds: float = 5) -> None:
        self.serve = serve
        self.limit_seconds = limit_seconds
        self.port = port
        self.accepted = 0
        self.ended = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self.serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            self.ended += 1
            writer.close()

    async def connect(self) -> tuple[asyncio.StreamWriter, float]:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return writer, self.limit_seconds


@asynccontextmanager
async def serving(serve: Serve, **options: float) -> AsyncIterator[Server]:
    server = Server(serve, free_port(), **options)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", server.port)
    try:
        yield server
        async with asyncio.timeout(5):
            while server.ended < server.accepted:  # noqa: ASYNC110 -- it has no event
                await asyncio.sleep(0.005)
    finally:
        listening.close()


def send(pipeline: RedisPipeline, expected: int = 1) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    pipeline.send(PING * expected, expected, future.set_result)
    assert not future.done()
    return future


async def test_replies_come_in_order_and_in_any_pieces() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING) * 4)
        for byte in b"$3\r\none\r\n*2\r\n$-1\r\n:2\r\n-ERR three\r\n+four\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with serving(serve) as server:
        pipeline = RedisPipeline(server.connect)
        first, rest, last = send(pipeline), send(pipeline, 2), send(pipeline)
        assert await first == [b"one"]
        [null, error] = await rest
        assert null == [None, 2]
        assert (isinstance(error, Exception), str(error)) == (True, "ERR three")
        assert await last == [b"four"]
        assert pipeline.is_connected
        pipeline.close(ConnectionError("the end"))


async def test_server_that_does_not_answer_is_disconnected() -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(serve, limit_seconds=0.05) as server:
        pipeline = RedisPipeline(server.connect)
        started = time.monotonic()
        waiting = [send(pipeline), send(pipeline)]
        for one in waiting:
            assert isinstance(await one, TimeoutError)
        assert 0.04 < time.monotonic() - started < 2
        assert pipeline.is_closed


@pytest.mark.parametrize("answer", [b"", b"this is not Redis"])
async def test_lost_and_unreadable_connections_fail_what_waits(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PING))
        writer.write(answer)

    async with serving(serve) as server:
        pipeline = RedisPipeline(server.connect)
        assert isinstance(await send(pipeline), Exception)
        assert pipeline.is_closed


async def test_refused_connection_fails_what_waits() -> None:
    server = Server(lambda *_: asyncio.sleep(0), free_port())
    pipeline = RedisPipeline(server.connect)
    for one in (send(pipeline), send(pipeline)):
        assert isinstance(await one, OSError)
    assert pipeline.is_closed


async def test_close_during_the_opening_leaves_no_connection() -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(serve) as server:
        pipeline = RedisPipeline(server.connect)
        waiting = send(pipeline)
        pipeline.close(ConnectionError("the end"))
        assert str(await waiting) == "the end"
        await asyncio.sleep(0)
        assert not pipeline.is_connected
