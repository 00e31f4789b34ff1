"""`python -m tests.benchmarks.many_models`: cost of a replica with hundreds of idle models.

Two variants each, the routing records on Redis, a stub in Triton's place.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis import Redis

from serving_gateway.contract import DEFAULT_MODEL
from tests.benchmarks.environment import control_token, start_gateway, start_instant_triton
from tests.benchmarks.memory import resident_mib
from tests.benchmarks.wrk import BenchmarkError
from tests.support.gateway_harness import RunningGateway
from tests.support.servers import run_redis

MODELS = 500
_AT_ONCE = 8
_RELOAD_SECONDS = 60.0
"""How long a reload is repeated while the gateway answers that it cannot do it now."""
_SETTLE_SECONDS = 3.0
_IDLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Counts:
    """Totals at one moment."""

    at: float
    cpu_seconds: float
    redis_commands: int
    triton_requests: int


def measure_many_models(home: Path, models: int = MODELS) -> dict[str, Any]:
    """Idle cost: share of a core, Redis connections and commands/s, probes/s, MiB.

    Raises:
        BenchmarkError: a reload was refused.
        ServerError: a server did not start.
    """
    names = [DEFAULT_MODEL, *(f"model_{number}" for number in range(2, models + 1))]
    with run_redis(home / "redis") as redis, start_instant_triton(home) as triton:
        env = {"GATEWAY_REDIS_URL": redis.url, "GATEWAY_MAX_MODELS": str(max(models, 1000))}
        with start_gateway(home / "gateway", triton, env=env, light=True) as gateway:
            asyncio.run(_reload_all(gateway.url, control_token(home / "gateway"), names))
            time.sleep(_SETTLE_SECONDS)
            with Redis(port=redis.port) as client:
                return {"models": models, **_idle(gateway, client, triton)}


async def _reload_all(url: str, token: str, names: list[str]) -> None:
    headers = {"authorization": f"Bearer {token}"}
    turn = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=60, trust_env=False
    ) as client:

        async def reload_both(name: str) -> None:
            async with turn:
                for alias, version in (("A", 1), ("B", 2)):
                    await _reload(client, f"/models/{name}/variant/{alias}/reload", version)

        await asyncio.gather(*map(reload_both, names))


async def _reload(client: httpx.AsyncClient, path: str, version: int) -> None:
    deadline = time.monotonic() + _RELOAD_SECONDS
    while True:
        answer = await client.post(path, json={"version": version, "run_id": f"run-{version}"})
        if answer.status_code == 200:
            return
        if answer.status_code != 503 or time.monotonic() > deadline:
            raise BenchmarkError(f"{path}: {answer.text}")
        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))


def _idle(gateway: RunningGateway, redis: Any, triton: str) -> dict[str, Any]:
    process = gateway.process.server
    before = _count(process, redis, triton)
    time.sleep(_IDLE_SECONDS)
    after = _count(process, redis, triton)
    seconds = after.at - before.at
    slowest = max(_health_seconds(gateway) for _ in range(50))
    return {
        "cpu_percent_of_a_core": round((after.cpu_seconds - before.cpu_seconds) / seconds * 100, 1),
        # One connection and two commands are this measurement's own.
        "redis_connections": int(redis.info("clients")["connected_clients"]) - 1,
        "redis_commands_per_second": round(
            (after.redis_commands - before.redis_commands - 1) / seconds, 1
        ),
        "triton_probes_per_second": round(
            (after.triton_requests - before.triton_requests) / seconds, 1
        ),
        "slowest_health_ms": round(slowest * 1e3, 1),
        "resident_mib": resident_mib(gateway),
    }


def _count(process: psutil.Process, redis: Any, triton: str) -> _Counts:
    times = process.cpu_times()
    requests = httpx.get(f"{triton}/requests", trust_env=False).json()["requests"]
    commands = int(redis.info("stats")["total_commands_processed"])
    return _Counts(time.monotonic(), times.user + times.system, commands, int(requests))


def _health_seconds(gateway: RunningGateway) -> float:
    started = time.monotonic()
    gateway.client.get("/health")
    time.sleep(0.02)
    return time.monotonic() - started - 0.02


def main() -> int:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.many_models")
    parser.add_argument("--models", type=int, default=MODELS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_many_models(Path(folder), arguments.models)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
