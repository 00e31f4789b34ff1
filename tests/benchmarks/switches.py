"""`python -m tests.benchmarks.switches`: switch production back and forth under load.

Two replicas on Redis behind HAProxy, two versions READY in one Triton, a switch every 100 ms. No
request may fail, and none may be answered by a version that was not effective at some moment
between its being sent and its being answered; and no server's resident memory may grow by 5 % after
the first 50 switches, which are not counted. The exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.footprint import Footprint, footprint, growth
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.load import Answer, Load, Reign, wrongly_answered
from tests.support.onnx_models import telltale, write_entry
from tests.support.programs import require_programs
from tests.support.servers import RunningRedis, RunningTriton, run_haproxy, run_redis, run_triton

_TOKEN = "a-token-of-the-benchmarks"
CONTROL = {"authorization": f"Bearer {_TOKEN}"}
"""Headers of control calls to the replicas."""
GROWTH_PERCENT = 5.0
"""By which the memory of a server may grow, at most."""
_WARM_UP = 50
"""Switches after which a server has loaded what it needs."""
_POLL_SECONDS = 0.005


@dataclass(slots=True)
class Outcome:
    """What became of the requests, and how fast the replicas followed."""

    answers: list[Answer]
    reigns: dict[int, Reign]
    convergence: list[float] = field(default_factory=list)
    """Seconds from the answer of each switch until all replicas routed by it."""
    seconds: float = 0.0

    @property
    def failed(self) -> list[Answer]:
        """Requests that got no answer."""
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def wrongly_answered(self) -> list[Answer]:
        """Answers of versions that were not effective."""
        return wrongly_answered(self.answers, self.reigns)

    def summary(self) -> dict[str, Any]:
        """The figures."""
        waits = sorted(answer.seconds for answer in self.answers)
        return {
            "switches": len(self.convergence),
            "seconds": round(self.seconds, 1),
            "requests": len(waits),
            "failed": len(self.failed),
            "answered_by_a_version_not_effective": len(self.wrongly_answered),
            "convergence_ms": {
                "median": round(median(self.convergence) * 1e3, 1),
                "highest": round(max(self.convergence) * 1e3, 1),
            },
            "latency_ms": {
                "p50": round(waits[len(waits) // 2] * 1e3, 1),
                "p99": round(waits[int(len(waits) * 0.99)] * 1e3, 1),
                "highest": round(waits[-1] * 1e3, 1),
            },
        }


@contextlib.contextmanager
def replicas_on_redis(
    home: Path,
    triton: RunningTriton,
    redis: RunningRedis,
    *,
    env: Mapping[str, str] | None = None,
    count: int = 2,
) -> Iterator[Sequence[RunningGateway]]:
    """Replicas with A on version 1."""
    variables = {"GATEWAY_REDIS_URL": redis.url, "GATEWAY_CONTROL_TOKEN": _TOKEN, **(env or {})}
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(
                run_gateway(
                    home / str(number), triton.http_url, env=variables, name=f"replica-{number}"
                )
            )
            for number in range(count)
        ]
        for replica in replicas:
            replica.client.headers.update(CONTROL)
        replicas[0].routed(1)
        for replica in replicas:
            replica.wait_ready()
        yield replicas


@contextlib.contextmanager
def replicas_behind_haproxy(
    home: Path,
    triton: RunningTriton,
    redis: RunningRedis,
    *,
    env: Mapping[str, str] | None = None,
    count: int = 2,
) -> Iterator[tuple[str, Sequence[RunningGateway]]]:
    """Replicas with A on version 1: the balancer's address, and the replicas."""
    with replicas_on_redis(home, triton, redis, env=env, count=count) as replicas:
        urls = [replica.url for replica in replicas]
        with run_haproxy(home, urls) as balancer:
            yield balancer.url, replicas


async def switch_under_load(
    url: str,
    replicas: Sequence[str],
    *,
    switches: int,
    connections: int,
    every: float = 0.1,
    per_second: float | None = None,
) -> Outcome:
    """Switch A between versions 1 and 2, from 1, by each of the replicas in turn.

    Clients ask `per_second`, or without that as fast as they are answered.
    """
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=replica, timeout=20, trust_env=False, headers=CONTROL)
            )
            for replica in replicas
        ]
        generation = (await clients[0].get("/health")).json()["generation"]
        outcome = Outcome([], {generation: Reign(1, time.monotonic())})
        load = await stack.enter_async_context(Load(url, connections, per_second=per_second))
        following: list[asyncio.Task[None]] = []
        await asyncio.sleep(every)
        started = time.monotonic()
        for number in range(switches):
            switched = await _switch(clients[number % len(clients)], 2 - number % 2, outcome)
            following.append(asyncio.create_task(_followed(clients, switched, outcome)))
            await asyncio.sleep(max(0.0, started + (number + 1) * every - time.monotonic()))
        outcome.seconds = time.monotonic() - started
        await asyncio.gather(*following)
    outcome.answers = load.answers
    return outcome


async def _switch(client: httpx.AsyncClient, version: int, outcome: Outcome) -> int:
    """Switch; the generation that it made."""
    body = {"version": version, "run_id": f"run-{version}"}
    asked = time.monotonic()
    answer = await client.post("/variant/A/reload", json=body)
    if answer.status_code != 200:
        raise AssertionError(f"the switch was refused: {answer.text}")
    generation: int = answer.json()["generation"]
    outcome.reigns[generation] = Reign(version, asked)
    return generation


async def _followed(
    clients: Sequence[httpx.AsyncClient], generation: int, outcome: Outcome
) -> None:
    """Note when all replicas route by a generation, or by a later one."""
    answered = time.monotonic()
    for replica in clients:
        while (await replica.get("/health")).json()["generation"] < generation:
            if time.monotonic() - answered > 5:
                raise AssertionError(f"{replica.base_url} does not follow")
            await asyncio.sleep(_POLL_SECONDS)
    done = time.monotonic()
    outcome.convergence.append(done - answered)
    outcome.reigns[generation - 1].ended = done


def _switched(
    url: str,
    replicas: Sequence[RunningGateway],
    triton: RunningTriton,
    arguments: argparse.Namespace,
    switches: int,
) -> tuple[Outcome, dict[str, Footprint]]:
    """What became of so many switches, and what each server holds after them."""
    urls = [replica.url for replica in replicas]
    outcome = asyncio.run(
        switch_under_load(
            url,
            urls,
            switches=switches,
            connections=arguments.connections,
            every=arguments.every,
            per_second=arguments.per_second,
        )
    )
    held = {f"replica {n}": footprint(one.process.server) for n, one in enumerate(replicas)}
    return outcome, {**held, "Triton": footprint(triton.process.server)}


def main() -> int:
    """Run it once and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.switches")
    parser.add_argument("--switches", type=int, default=200)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--every", type=float, default=0.1, metavar="SECONDS")
    parser.add_argument(
        "--per-second",
        type=float,
        metavar="REQUESTS",
        help="requests of all clients; without it each asks as fast as it is answered",
    )
    arguments = parser.parse_args()
    require_programs("haproxy", "redis-server")
    minutes = (_WARM_UP + arguments.switches) * arguments.every / 60
    sys.stderr.write(f"{arguments.switches} switches under load, for at least {minutes:.1f} min\n")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        write_entry(home / "repository", DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
        triton = stack.enter_context(run_triton(home / "repository", home))
        redis = stack.enter_context(run_redis(home / "redis"))
        url, replicas = stack.enter_context(replicas_behind_haproxy(home, triton, redis))
        switch = partial(_switched, url, replicas, triton, arguments)
        warm_up, before = switch(_WARM_UP)
        outcome, after = switch(arguments.switches)
    grown = growth(before, after)
    figures = {**outcome.summary(), "resident_memory_growth_percent": grown}
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    failed = [
        answer for one in (warm_up, outcome) for answer in [*one.failed, *one.wrongly_answered]
    ]
    for answer in failed[:5]:
        sys.stdout.write(f"{answer}\n")
    return 1 if failed or max(grown.values()) >= GROWTH_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main())
