"""A corpus of request smuggling, through HAProxy and at the gateway itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httptools
import pytest

from tests.faults.smuggling import CORPUS, HTTP_2
from tests.support.in_process_gateway import InProcessGateway, run_in_process
from tests.support.servers import LOOPBACK, run_haproxy

_SILENCE_SECONDS = 0.05
"""After which an attack counts as answered as far as it ever will."""
_DENY = "http-request deny deny_status 429 if { path /smuggled } or { path_beg /variant }"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with run_in_process(tmp_path) as running:
        yield running


async def victim(port: int) -> None:
    """A request on a connection of its own is answered as itself."""
    body = b'{"data":[[1.5,2.5]]}'
    head = (
        b"POST /predict HTTP/1.1\r\nHost: g\r\nX-Request-Id: victim\r\nContent-Length: %d\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(head % len(body) + body)
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert b"x-request-id: victim\r\n" in answer


class Answer(NamedTuple):
    """One response."""

    status: int
    request_id: str
    is_last: bool
    """Whether it says that the connection ends."""


class Answers:
    """Reads responses."""

    def __init__(self) -> None:
        self.complete: list[Answer] = []
        self._headers: dict[bytes, bytes] = {}
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Read on."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """The next response."""
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.lower()] = value.lower()

    def on_message_complete(self) -> None:
        """The end of a response."""
        request_id = self._headers.get(b"x-request-id", b"").decode()
        is_last = self._headers.get(b"connection") == b"close"
        self.complete.append(Answer(self._parser.get_status_code(), request_id, is_last))


async def attack(port: int, data: bytes) -> list[Answer]:
    """Send it, then a good request where the connection still stands; all answers."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    answers = Answers()

    async def read() -> bool:
        """Read until silence; whether the connection still stands."""
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    if not (part := await reader.read(65_536)):
                        return False
                answers.feed(part)
        return True

    try:
        writer.write(data)
        if await read():
            writer.write(b"GET /health HTTP/1.1\r\nHost: g\r\nX-Request-Id: next\r\n\r\n")
            await read()
    except ConnectionError:
        pass
    except httptools.HttpParserError as error:
        raise AssertionError(f"an answer that no client can read: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return answers.complete


async def reached(gateway: InProcessGateway, before: float) -> float:
    """How many requests for paths that there are not came to the gateway."""
    await asyncio.sleep(before)
    text = (await gateway.client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("http_requests_total{")]
    hidden = [line for line in lines if 'status="404"' in line or "/variant" in line]
    return sum(float(line.rpartition(" ")[2]) for line in hidden)


@pytest.mark.needs("haproxy")
async def test_nothing_hidden_in_a_request_passes_the_balancers_rules(
    tmp_path: Path, gateway: InProcessGateway
) -> None:
    url = f"http://{LOOPBACK}:{gateway.port}"
    already = await reached(gateway, 0)
    running = run_haproxy(tmp_path / "haproxy", [url], rules=[_DENY], reuse="always", checks=False)
    balancer = await asyncio.to_thread(running.__enter__)
    try:
        port = int(balancer.url.rpartition(":")[2])
        for name, data in CORPUS.items():
            if name == HTTP_2:
                continue  # HAProxy speaks it
            answers = await attack(port, data)
            assert all(status < 500 for status, *_ in answers), (name, answers)
            await victim(port)
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
    # The page of metrics is made once a second at most.
    assert await reached(gateway, 1.1) == already


async def test_no_attack_on_the_gateway_itself_is_answered_as_another_request(
    gateway: InProcessGateway,
) -> None:
    for name, data in CORPUS.items():
        answers = await attack(gateway.port, data)
        assert all(status < 500 for status, *_ in answers), (name, answers)
        assert not any(one.is_last for one in answers[:-1]), (name, answers)
        if name.startswith("coding: "):
            # By its length all of it is one request.
            assert "smuggled" not in {one.request_id for one in answers}, (name, answers)
    await victim(gateway.port)
