"""An answer in one write is, byte for byte, the one that the server would have sent in two."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from serving_gateway.http.raw import JSON, Send, answer

LOG = logging.getLogger(__name__)
BODY = b'{"predictions":[0]}'
CLOSE = (b"connection", b"close")


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True


class Exchange:
    """One request on the server's own cycle."""

    def __init__(self, method: str = "POST", *, keep_alive: bool = True) -> None:
        self.transport = Transport()
        self.responses = 0
        transport = cast(asyncio.Transport, self.transport)
        self.cycle = RequestResponseCycle(
            scope=cast(Any, {"method": method, "type": "http"}),
            transport=transport,
            flow=FlowControl(transport),
            logger=LOG,
            access_logger=LOG,
            access_log=False,
            default_headers=[(b"server", b"s")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=self._count,
        )

    def _count(self) -> None:
        self.responses += 1

    @property
    def send(self) -> Send:
        """What the application gets."""
        return cast(Send, self.cycle.send)

    @property
    def state(self) -> tuple[Any, ...]:
        """What decides how the connection goes on."""
        cycle = self.cycle
        ended = (cycle.response_started, cycle.response_complete, cycle.message_event.is_set())
        return (*ended, cycle.keep_alive, self.transport.closed, self.responses)


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("extra", [[], [CLOSE]])
@pytest.mark.parametrize("status", [200, 431, 503])
async def test_one_write_equals_the_servers_two(
    status: int, extra: list[tuple[bytes, bytes]], keep_alive: bool
) -> None:
    ours, servers = Exchange(keep_alive=keep_alive), Exchange(keep_alive=keep_alive)

    async def plain(message: Any) -> None:
        await servers.cycle.send(message)

    await answer(ours.send, status, BODY, [JSON, *extra])
    await answer(plain, status, BODY, [JSON, *extra])
    assert len(ours.transport.writes) == 1
    assert len(servers.transport.writes) == 2
    assert lines(ours) == lines(servers)
    assert ours.state == servers.state


def lines(exchange: Exchange) -> list[bytes]:
    """The lines of the head in any order, and the body."""
    head, _, body = b"".join(exchange.transport.writes).partition(b"\r\n\r\n")
    return [*sorted(head.split(b"\r\n")), body]


async def test_the_answer_to_head_has_no_body() -> None:
    exchange = Exchange("HEAD")
    await answer(exchange.send, 405, BODY, [JSON])
    assert b"".join(exchange.transport.writes).endswith(b"content-length: 19\r\n\r\n")


async def test_nothing_is_written_to_a_client_that_left() -> None:
    exchange = Exchange()
    exchange.cycle.disconnected = True
    await answer(exchange.send, 200, BODY, [JSON])
    assert exchange.transport.writes == []


async def test_a_client_that_reads_slowly_is_waited_for() -> None:
    exchange = Exchange()
    exchange.cycle.flow.pause_writing()
    waiting = asyncio.create_task(answer(exchange.send, 200, BODY, [JSON]))
    await asyncio.sleep(0)
    assert exchange.transport.writes == []
    exchange.cycle.flow.resume_writing()
    await waiting
    assert len(exchange.transport.writes) == 1
