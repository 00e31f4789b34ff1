"""Clients that leave before they are answered, and clients that send next to nothing.

Neither costs the others an answer, and nothing is kept of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.faults.scale import report, scale
from tests.support.footprint import Footprint, footprint
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.load import Load
from tests.support.servers import RunningTriton

_LEAVING: Final = scale(1_000, 20_000)
_AT_ONCE: Final = 100
_SLOW: Final = 500
_LIMIT_SECONDS: Final = 2.0
"""For a head or a body, by the gateway's settings."""
_SWEEP_SECONDS: Final = 4.0
"""After which, beyond the limit, an overdue connection has ended, on a busy machine too."""
_MOST_DESCRIPTORS: Final = 8
"""Connections to Triton that are kept come and go."""
_MOST_MIB: Final = 20.0
_BODY: Final = b'{"data":[[5.1,3.5,1.4,0.2]]}'
_HEAD: Final = b"POST /predict HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(_BODY)


@pytest.fixture
def gateway(tmp_path: Path, shared_triton: RunningTriton) -> Iterator[RunningGateway]:
    """A gateway that waits for heads and bodies a short time."""
    seconds = f"{_LIMIT_SECONDS:g}"
    env = {"GATEWAY_HEAD_SECONDS": seconds, "GATEWAY_BODY_SECONDS": seconds}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as running:
        running.routed(1)
        yield running


async def test_a_thousand_clients_that_leave_cost_the_others_nothing(
    gateway: RunningGateway,
) -> None:
    async def leave(number: int) -> None:
        _, writer = await _connect(gateway)
        # Before the end of the head, before that of the body, and before the answer.
        whole = _HEAD + _BODY
        writer.write(whole[: (len(_HEAD) // 2, len(_HEAD) + 5, len(whole))[number % 3]])
        await writer.drain()
        writer.transport.abort()

    async with Load(gateway.url, 4, per_second=100) as load:
        await asyncio.sleep(1)
        before = footprint(gateway.process.server)
        for start in range(0, _LEAVING, _AT_ONCE):
            await asyncio.gather(*map(leave, range(start, start + _AT_ONCE)))
        after = await _settled(gateway, before)
    assert load.failed == []
    assert len(load.answers) > 50
    assert after.descriptors - before.descriptors <= _MOST_DESCRIPTORS
    assert after.resident - before.resident < _MOST_MIB * 2**20
    assert gateway.metric("gateway_requests_in_flight") == 1, "the one that asks"
    report("clients", left=_LEAVING, descriptors_gained=after.descriptors - before.descriptors)


async def test_slow_clients_are_ended_in_time_and_delay_no_other(gateway: RunningGateway) -> None:
    async def drip(number: int) -> tuple[float, bytes]:
        """Send a byte at a time; when that ended, and the status that it was ended with."""
        reader, writer = await _connect(gateway)
        began = time.monotonic()
        sent = _HEAD if number % 2 else b""
        writer.write(sent)
        answer = asyncio.create_task(reader.read(65_536))
        for byte in (_HEAD + _BODY)[len(sent) :]:
            writer.write(bytes([byte]))
            if answer in (await asyncio.wait([answer], timeout=0.25))[0]:
                break
        status = (await answer)[9:12]
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return time.monotonic() - began, status

    async with Load(gateway.url, 4, per_second=100) as load:
        await asyncio.sleep(1)
        before = footprint(gateway.process.server)
        ended = await asyncio.gather(*map(drip, range(_SLOW)))
        after = await _settled(gateway, before)
    assert {status for _, status in ended} == {b"408"}
    longest = max(seconds for seconds, _ in ended)
    assert longest < _LIMIT_SECONDS + _SWEEP_SECONDS
    assert load.failed == []
    slowest = max(answer.seconds for answer in load.answers)
    assert slowest < 2
    assert after.descriptors - before.descriptors <= _MOST_DESCRIPTORS
    report(
        "clients",
        slow=_SLOW,
        ended_after_seconds_at_most=round(longest, 1),
        requests=len(load.answers),
        longest_answer_ms=round(slowest * 1e3, 1),
    )


async def _connect(gateway: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(gateway.url)
    return await asyncio.open_connection(address.hostname, address.port)


async def _settled(gateway: RunningGateway, before: Footprint) -> Footprint:
    """What the gateway holds once the clients' connections have ended, or after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        found = footprint(gateway.process.server)
        if found.descriptors <= before.descriptors:
            break
    return found
