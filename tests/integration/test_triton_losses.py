"""Real Triton servers that are restarted, killed or stopped under load (I3)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import Client, RunningGateway, run_gateway
from tests.support.load import Load
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import RunningTriton, run_triton, wait_until


@contextlib.contextmanager
def run_pair(tmp_path: Path, repository: Path) -> Iterator[tuple[RunningTriton, RunningTriton]]:
    """Two Triton servers that serve version 1."""
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)})
    with (
        run_triton(repository, tmp_path / "one") as one,
        run_triton(repository, tmp_path / "two") as two,
    ):
        yield one, two


@contextlib.contextmanager
def before_pair(
    tmp_path: Path, pair: tuple[RunningTriton, RunningTriton]
) -> Iterator[RunningGateway]:
    """A gateway that knows both, and routes to version 1."""
    urls = ",".join(one.http_url for one in pair)
    env = {"GATEWAY_TRITON_SERVERS_URL": urls}
    with run_gateway(tmp_path, pair[0].http_url, env=env) as gateway:
        gateway.routed(1)
        yield gateway


async def test_a_planned_restart_of_either_server_fails_no_request(
    tmp_path: Path, repository: Path
) -> None:
    with run_pair(tmp_path, repository) as pair, before_pair(tmp_path, pair) as gateway:
        async with Load(gateway.url, 8, pause_seconds=0.02) as load:
            for triton in pair:
                started = time.monotonic()
                await asyncio.to_thread(triton.process.stop)
                # The gateway holds no connection that the drain would have to wait for.
                assert time.monotonic() - started < 9
                await asyncio.sleep(0.5)
                await asyncio.to_thread(triton.process.start)
                await asyncio.sleep(2)  # to be asked again, before the other one goes
        assert load.failed == []
        assert len(load.answers) > 500
        assert max(answer.seconds for answer in load.answers) < 2


async def test_the_crash_of_one_server_fails_at_most_what_it_was_working_on(
    tmp_path: Path, repository: Path
) -> None:
    with run_pair(tmp_path, repository) as pair, before_pair(tmp_path, pair) as gateway:
        async with Load(gateway.url, 8, pause_seconds=0.02) as load:
            await asyncio.sleep(1)
            await asyncio.to_thread(pair[0].kill)
            await asyncio.sleep(2)
        # Two inferences at most are under way, and eight clients share them.
        assert len(load.failed) <= 8
        assert {answer.status for answer in load.failed} <= {503}
        assert max(answer.seconds for answer in load.answers) < 2


@pytest.mark.parametrize("clients", [1, 12])
def test_a_stopped_triton_is_reported_within_two_seconds(
    tmp_path: Path, repository: Path, clients: int
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(Client(gateway.url, 0.02)) for _ in range(clients)]
            running[0].waits_for(lambda answer: answer == (200, 1))
            triton.process.signal(signal.SIGSTOP)
            try:
                wait_until(lambda: not gateway.ready(), 3, "not ready")
                started = time.monotonic()
                answer = gateway.predict()
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                # At once, not after the seconds that a request may take.
                assert time.monotonic() - started < 1.5
            finally:
                triton.process.signal(signal.SIGCONT)
            gateway.wait_ready()
            answer = gateway.predict()
            assert answer.status_code == 200, answer.text
