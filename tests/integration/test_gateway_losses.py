"""Redis and MLflow killed and stopped under load: payload requests never notice (I8, I9, I12)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.switches import replicas_behind_haproxy
from tests.support.gateway_harness import RunningGateway
from tests.support.load import Load
from tests.support.servers import (
    RunningProcess,
    RunningRedis,
    RunningTriton,
    run_mlflow,
    wait_until,
)

pytestmark = pytest.mark.needs("haproxy")
CONNECTIONS = 16
PAUSE_SECONDS = 0.04
SLOWEST_SECONDS = 1.0


async def stop_for_a_while(
    process: RunningProcess, seen: Callable[[], bool], back: Callable[[], bool]
) -> None:
    """SIGSTOP a server until that was noticed and a little longer, and let it go on."""
    process.signal(signal.SIGSTOP)
    try:
        await asyncio.to_thread(wait_until, seen, 60, "the loss is noticed")
        await asyncio.sleep(1)  # of load without the server
    finally:
        process.signal(signal.SIGCONT)
    await asyncio.to_thread(wait_until, back, 60, "the return is noticed")


async def kill(process: RunningProcess, seen: Callable[[], bool]) -> None:
    """`kill -9` a server, and wait until that was noticed and a little longer."""
    await asyncio.to_thread(process.kill)
    await asyncio.to_thread(wait_until, seen, 60, "the loss is noticed")
    await asyncio.sleep(1)


def assert_unnoticed(load: Load) -> None:
    assert load.failed == []
    assert len(load.answers) > 500
    assert {answer.version for answer in load.answers} == {1}
    assert max(answer.seconds for answer in load.answers) < SLOWEST_SECONDS


async def test_the_loss_of_redis_fails_no_request(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    with replicas_behind_haproxy(tmp_path, shared_triton, redis) as (url, replicas):

        def problems() -> list[bool]:
            return [r.models()["routing"]["store_problem"] is not None for r in replicas]

        async with Load(url, CONNECTIONS, pause_seconds=PAUSE_SECONDS) as load:
            await stop_for_a_while(
                redis.process, lambda: all(problems()), lambda: not any(problems())
            )
            await kill(redis.process, lambda: all(problems()))
            await asyncio.to_thread(redis.process.start)
            await asyncio.to_thread(wait_until, lambda: not any(problems()), 60, "Redis is back")
        assert_unnoticed(load)
        assert all(replica.models()["in_sync"] for replica in replicas)


async def test_the_loss_of_mlflow_fails_no_request(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    def refusal(gateway: RunningGateway) -> tuple[int, str]:
        # Triton has version 2 READY, only MLflow knows its run, and MLflow is down.
        answer = gateway.reload(version=2)
        return answer.status_code, answer.json()["code"]

    with run_mlflow(tmp_path) as mlflow:
        env = {"GATEWAY_MLFLOW_URL": mlflow.url, "GATEWAY_MLFLOW_SECONDS": "3"}
        # Stopped, so that version 1 is routed to on the caller's word.
        mlflow.process.signal(signal.SIGSTOP)
        with replicas_behind_haproxy(tmp_path, shared_triton, redis, env=env) as (url, replicas):
            mlflow.process.signal(signal.SIGCONT)
            async with Load(url, CONNECTIONS, pause_seconds=PAUSE_SECONDS) as load:
                await stop_for_a_while(
                    mlflow.process,
                    lambda: refusal(replicas[0]) == (503, "run_id_unknown"),
                    lambda: refusal(replicas[0]) == (409, "not_registered"),
                )
                await kill(mlflow.process, lambda: refusal(replicas[0])[0] == 503)
            assert_unnoticed(load)
            assert all(replica.ready() for replica in replicas)
