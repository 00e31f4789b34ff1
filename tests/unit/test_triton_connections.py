"""The connections to one server: kept, aged, bounded, and exact about how an exchange ended."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
import uvloop

from serving_gateway.errors import BadUpstreamAnswer, GatewayError, Overloaded
from serving_gateway.triton import connections as module
from serving_gateway.triton import exchange as exchange_module
from serving_gateway.triton.connections import Connections
from serving_gateway.triton.exchange import (
    ConnectFailed,
    ConnectionLost,
    Exchange,
    TritonResponse,
)
from tests.support.servers import LOOPBACK, free_port
from tests.support.stub_triton import StubTriton, run_stub
from tests.support.waiting import eventually

INFER = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


LoopFactory = Callable[[], asyncio.AbstractEventLoop]
both_loops = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
"""They end connections in different ways."""


class Recorded(Exchange):
    """An exchange that keeps how it ended."""

    def __init__(self, request: bytes = INFER) -> None:
        super().__init__(request)
        self.ended: asyncio.Future[TritonResponse | GatewayError] = (
            asyncio.get_running_loop().create_future()
        )
        self.ends = 0

    def on_response(self, response: TritonResponse) -> None:
        self.end(response)

    def on_failure(self, error: GatewayError) -> None:
        self.end(error)

    def end(self, result: TritonResponse | GatewayError) -> None:
        self.ends += 1
        self.ended.set_result(result)

    async def response(self) -> TritonResponse:
        result = await asyncio.wait_for(self.ended, 5)
        assert isinstance(result, TritonResponse), result
        return result

    async def failure(self) -> GatewayError:
        result = await asyncio.wait_for(self.ended, 5)
        assert isinstance(result, GatewayError)
        return result

    async def loss(self) -> ConnectionLost:
        error = await self.failure()
        assert isinstance(error, ConnectionLost)
        return error


def connections_to(url: str, *, idle: int = 4, max_age: float = 60) -> Connections:
    return Connections(url, idle=idle, connect_seconds=4, max_age_seconds=max_age)


@pytest.fixture
async def stub() -> AsyncIterator[StubTriton]:
    async with run_stub() as running:
        yield running


@pytest.fixture
async def pool(stub: StubTriton) -> AsyncIterator[Connections]:
    pool = connections_to(stub.url)
    yield pool
    await pool.aclose()


async def exchange(pool: Connections) -> TritonResponse:
    one = Recorded()
    pool.start(one)
    return await one.response()


class Raw(asyncio.Protocol):
    """Answers a request with fixed bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, _: bytes) -> None:
        self.transport.write(self.answer)


async def raw(*parts: bytes, times: int = 1) -> list[TritonResponse | GatewayError]:
    """What exchanges one after the other end with, when a server answers so."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Raw(b"".join(parts)), LOOPBACK, 0)
    pool = connections_to(f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
    ended = []
    for _ in range(times):
        one = Recorded()
        pool.start(one)
        ended.append(await asyncio.wait_for(one.ended, 5))
    server.close()
    await pool.aclose()
    return ended


async def test_sequential_exchanges_share_one_connection(
    stub: StubTriton, pool: Connections
) -> None:
    for _ in range(5):
        assert (await exchange(pool)).body == stub.body
    assert stub.opened == 1


async def test_an_exchange_never_waits_for_another(stub: StubTriton, pool: Connections) -> None:
    stub.hangs_inferences = True
    stuck = [Recorded() for _ in range(40)]
    for one in stuck:
        pool.start(one)
    await eventually(lambda: len(stub.inferences) == 40)
    stub.hangs_inferences = False
    await exchange(pool)
    assert pool.busy == 40


async def test_no_more_than_the_idle_limit_is_kept(stub: StubTriton, pool: Connections) -> None:
    many = [Recorded() for _ in range(9)]
    for one in many:
        pool.start(one)
    for one in many:
        await one.response()
    await eventually(lambda: len(stub.connections) == 4)
    assert pool.busy == 0


async def test_a_connection_beyond_its_age_is_not_used_again(stub: StubTriton) -> None:
    pool = connections_to(stub.url, max_age=0.05)
    await exchange(pool)
    await exchange(pool)
    assert stub.opened == 1
    await eventually(lambda: not stub.connections)
    await exchange(pool)
    assert stub.opened == 2
    await pool.aclose()


async def test_an_old_connection_is_not_used_even_before_it_is_swept(
    stub: StubTriton, pool: Connections
) -> None:
    await exchange(pool)
    for connection in pool.open:
        connection.opened_at -= 100
    await exchange(pool)
    assert stub.opened == 2


async def test_a_connection_that_is_lost_before_it_can_be_used_fails_the_exchange(
    pool: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def create(
        factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[None, asyncio.Protocol]:
        connection = factory()
        connection.connection_made(asyncio.Transport())
        connection.connection_lost(None)
        return None, connection

    monkeypatch.setattr(pool.loop, "create_connection", create)
    one = Recorded()
    pool.start(one)
    assert (await one.loss()).unread


async def test_connections_beyond_the_cap_are_refused(
    stub: StubTriton, pool: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    stub.hangs_inferences = True
    for _ in range(3):
        pool.start(Recorded())
    one_more = Recorded()
    pool.start(one_more)
    assert not one_more.ended.done(), "callbacks come later"
    assert isinstance(await one_more.failure(), Overloaded)


async def test_a_refused_connection_fails_its_own_exchange_alone(stub: StubTriton) -> None:
    refused = connections_to(f"http://{LOOPBACK}:{free_port()}")
    one, two = Recorded(), Recorded()
    refused.start(one)
    refused.start(two)
    assert isinstance(await one.failure(), ConnectFailed)
    assert isinstance(await two.failure(), ConnectFailed)
    await refused.aclose()


@pytest.mark.parametrize("url", ["http://triton.invalid:1", f"http://{'a' * 70}.x:1"])
async def test_a_name_that_cannot_be_connected_to_fails_the_exchange(url: str) -> None:
    pool = connections_to(url)
    one = Recorded()
    pool.start(one)
    assert isinstance(await one.failure(), ConnectFailed)
    await pool.aclose()


async def test_a_dropped_exchange_has_no_callback_and_costs_its_connection(
    stub: StubTriton, pool: Connections
) -> None:
    stub.delay = 0.01
    one = Recorded()
    pool.start(one)
    await eventually(lambda: len(stub.inferences) == 1)
    one.drop()
    await eventually(lambda: not stub.connections)
    assert one.ends == 0
    assert pool.busy == 0


async def test_an_exchange_dropped_before_its_connection_opened_leaves_it_to_the_next(
    stub: StubTriton, pool: Connections
) -> None:
    one = Recorded()
    pool.start(one)
    one.drop()
    await eventually(lambda: stub.opened == 1 and pool.busy == 0)
    await exchange(pool)
    assert (stub.opened, len(stub.inferences), one.ends) == (1, 1, 0)


async def test_a_request_that_the_server_read_before_it_closed_may_have_been_executed(
    stub: StubTriton, pool: Connections
) -> None:
    await exchange(pool)
    stub.hangs_inferences = True
    one = Recorded()
    pool.start(one)
    await eventually(lambda: len(stub.inferences) == 2)
    stub.close_connections()
    lost = await one.loss()
    assert (lost.unread, lost.kept, lost.answered) == (False, True, False)


async def test_a_request_on_a_connection_that_was_closed_already_is_unread(
    pool: Connections, stub: StubTriton
) -> None:
    await exchange(pool)
    # The server's end arrives at this host before the loop comes to see it.
    stub.close_connections()
    await asyncio.sleep(0)
    one = Recorded()
    pool.start(one)
    result = await asyncio.wait_for(one.ended, 5)
    if isinstance(result, ConnectionLost):
        assert (result.unread, result.kept) == (True, True)
    else:
        assert stub.opened == 2


class Closing:
    """A server in plain sockets that ends connections as the kernel does for a process."""

    def __init__(self) -> None:
        self.listener = socket.create_server((LOOPBACK, 0))
        self.url = f"http://{LOOPBACK}:{self.listener.getsockname()[1]}"

    async def accept(self) -> socket.socket:
        self.listener.setblocking(False)
        accepted, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return accepted


@both_loops
@pytest.mark.parametrize(("how", "unread"), [("unread", True), ("read", False), ("reset", True)])
def test_what_the_kernel_knows_of_a_lost_request_is_distinguished(
    loop: LoopFactory, how: str, unread: bool
) -> None:
    async def lose() -> ConnectionLost:
        server = Closing()
        pool = connections_to(server.url)
        one = Recorded()
        pool.start(one)
        accepted = await server.accept()
        if how != "unread":
            assert await asyncio.get_running_loop().sock_recv(accepted, 65_536) == INFER
        if how == "reset":
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        lost = await one.loss()
        server.listener.close()
        await pool.aclose()
        return lost

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(lose()).unread is unread


@both_loops
def test_a_connection_closed_as_soon_as_it_is_accepted_fails_the_exchange_at_once(
    loop: LoopFactory,
) -> None:
    async def lose() -> None:
        async with run_stub() as stub:
            stub.drains = True
            pool = connections_to(stub.url)
            for _ in range(50):
                one = Recorded()
                pool.start(one)
                assert (await one.loss()).unread
            await eventually(lambda: pool.busy == 0)
            await pool.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(lose())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    ],
)
async def test_bytes_that_are_not_http_end_the_exchange(answer: bytes) -> None:
    (error,) = await raw(answer)
    assert isinstance(error, BadUpstreamAnswer)


async def test_a_response_over_the_limit_ends_the_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "MAX_RESPONSE_BYTES", 10)
    for size in (19, 20):
        body = b"x" * size
        (error,) = await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", body)
        assert isinstance(error, BadUpstreamAnswer)


async def test_what_precedes_the_response_is_skipped() -> None:
    (found,) = await raw(
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    assert isinstance(found, TritonResponse)
    assert (found.status, found.body) == (200, b"ok")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 1\r\nContent-Length: 2", b"ok"),
        (b"HTTP/1.1 400 No\r\nContent-Length: 2", b"no"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close", b"ok"),
    ],
)
async def test_equal_responses_are_read_equally_however_often_they_come(
    head: bytes, body: bytes
) -> None:
    found = await raw(head, b"\r\n\r\n", body, times=4)
    results = [
        (one.status, one.inference_header_length, one.body)
        for one in found
        if isinstance(one, TritonResponse)
    ]
    length = 1 if b"Inference" in head else None
    expected = b"ok" if b"200" in head else b"no"
    assert results == [(int(head[9:12]), length, expected)] * 4


async def test_a_length_without_end_is_not_converted() -> None:
    head = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %b\r\nContent-Length: 0\r\n\r\n"
    (found,) = await raw(head % (b"9" * 5000))
    assert isinstance(found, TritonResponse)
    assert found.inference_header_length is None


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"HTTP/1.1"])
async def test_bytes_after_a_response_never_become_the_next_one(extra: bytes) -> None:
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for found in await raw(good, extra, times=3):
        assert isinstance(found, TritonResponse)
        assert found.body == b"ok"


async def test_a_body_that_follows_its_head_is_waited_for() -> None:
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"] * 2
    late = b"ok"

    class Late(Raw):
        def data_received(self, _: bytes) -> None:
            whole = answers.pop() if answers else b""
            self.transport.write(whole or head)
            if not whole:
                asyncio.get_running_loop().call_later(0.02, self.transport.write, late)

    head = answers[0][: -len(late)]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Late(b""), LOOPBACK, 0)
    pool = connections_to(f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
    for _ in range(4):
        assert (await exchange(pool)).body == b"ok"
    server.close()
    await pool.aclose()


async def test_a_response_in_pieces_is_put_together(pool: Connections, stub: StubTriton) -> None:
    stub.body = b"x" * 3_000_000
    for _ in range(3):
        assert (await exchange(pool)).body == stub.body
    assert stub.opened == 1


async def test_connections_are_kept_alive_by_the_kernel(
    pool: Connections, stub: StubTriton
) -> None:
    await exchange(pool)
    (connection,) = pool.open
    assert connection._transport is not None
    made = connection._transport.get_extra_info("socket")
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for triton.example."""
    home = tmp_path_factory.mktemp("tls")
    key, certificate = home / "key.pem", home / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=t"]
    command += ["-addext", "subjectAltName=DNS:triton.example"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


async def test_https_is_verified_by_the_name_that_was_resolved(
    certificate: tuple[Path, Path],
) -> None:
    key, trusted = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(trusted, key)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Raw(answer), LOOPBACK, 0, ssl=context)
    url = f"https://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    for name, is_good in (("triton.example", True), ("other.example", False), (None, False)):
        pool = Connections(url, idle=1, connect_seconds=4, max_age_seconds=60, server_name=name)
        assert pool._tls is not None
        pool._tls.load_verify_locations(trusted)
        one = Recorded()
        pool.start(one)
        ended = await asyncio.wait_for(one.ended, 5)
        assert isinstance(ended, TritonResponse if is_good else ConnectFailed)
        await pool.aclose()
    server.close()
