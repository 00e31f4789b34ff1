"""`python -m tests.benchmarks.drills`: roll a bad release back, again and again, under load.

Four replicas on Redis behind HAProxy. Each drill promotes version 2, waits until all replicas
route by it, and rolls back; measured is the time from the request to the last replica's first
answer by the new generation. Each replica is asked for predictions until it gives one, on a
connection of its own, beside the load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from serving_gateway.contract import DEFAULT_MODEL
from tests.benchmarks.cases import PREDICT
from tests.benchmarks.latency import summarize_ms
from tests.benchmarks.open_loop import post
from tests.benchmarks.switches import CONTROL, replicas_behind_haproxy
from tests.benchmarks.wrk import BenchmarkError
from tests.support.load import Answer, Load, Reign, wrongly_answered
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import run_redis, run_triton

REPLICAS = 4
PER_SECOND = 500
CONNECTIONS = 16
CONVERGENCE_SECONDS = 10.0
"""After which a replica counts as one that does not follow."""
_PAUSE_SECONDS = 0.003
_GENERATION = re.compile(rb'"generation":(\d+)')


@dataclass(slots=True)
class DrillReport:
    """Outcome of all drills; times in seconds."""

    answers: list[Answer] = field(default_factory=list)
    reigns: dict[int, Reign] = field(default_factory=dict)
    responses: list[float] = field(default_factory=list)
    """Until the rollback was answered."""
    convergence: list[float] = field(default_factory=list)
    """Until the last replica answered by the new generation."""

    @property
    def failed(self) -> list[Answer]:
        """Requests without an answer, and answers of a version that was not effective."""
        unanswered = [answer for answer in self.answers if answer.status != 200]
        return unanswered + wrongly_answered(self.answers, self.reigns)

    def summary(self) -> dict[str, Any]:
        """The figures."""
        return {
            "drills": len(self.convergence),
            "replicas": REPLICAS,
            "requests": len(self.answers),
            "failed": len(self.failed),
            "rollback_response_ms": summarize_ms(self.responses),
            "convergence_ms": summarize_ms(self.convergence),
        }


class Observer:
    """Asks one replica for predictions to see which generation it routes by."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._url = url
        self._host, self._port = address.hostname, address.port or 80
        self._request = post(f"{url}/predict", PREDICT)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def sees(self, generation: int) -> float:
        """Wait for an answer by this generation or a later one; when it had come (monotonic).

        Raises:
            BenchmarkError: none came in time, or a request failed.
        """
        deadline = time.monotonic() + CONVERGENCE_SECONDS
        while await self._ask() < generation:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self._url} does not follow to generation {generation}")
            await asyncio.sleep(_PAUSE_SECONDS)
        return time.monotonic()

    async def _ask(self) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        found = _GENERATION.search(body)
        if found is None:
            raise BenchmarkError(f"{self._url}: {(head + body).decode(errors='replace')}")
        return int(found[1])

    async def aclose(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()


async def drill_under_load(
    url: str, replicas: Sequence[str], *, drills: int, per_second: float = PER_SECOND
) -> DrillReport:
    """Promote version 2 and roll back to version 1, from 1, by each of the replicas in turn.

    Raises:
        BenchmarkError: a change was refused, or a replica does not follow.
    """
    report = DrillReport()
    async with (
        _clients(replicas) as clients,
        _observers(replicas) as observers,
    ):
        generation = (await clients[0].get("/health")).json()["generation"]
        report.reigns[generation] = Reign(1, time.monotonic())
        async with Load(url, CONNECTIONS, per_second=per_second) as load:
            await _drill(clients, observers, report, drills)
    report.answers = load.answers
    return report


async def _drill(
    clients: Sequence[httpx.AsyncClient],
    observers: Sequence[Observer],
    report: DrillReport,
    drills: int,
) -> None:
    for number in range(drills):
        client = clients[number % len(clients)]
        promotion = client.post("/variant/A/reload", json={"version": 2, "run_id": "run-2"})
        await _change(promotion, 2, observers, report)
        rollback = client.post("/variant/A/rollback")
        responded, converged = await _change(rollback, 1, observers, report)
        report.responses.append(responded)
        report.convergence.append(converged)
        if (number + 1) % 100 == 0:
            sys.stderr.write(f"drills: {number + 1} of {drills}\n")


async def _change(
    request: Any, version: int, observers: Sequence[Observer], report: DrillReport
) -> tuple[float, float]:
    """Make a change and wait for all replicas; seconds until the response and until the last."""
    before = max(report.reigns)
    started = time.monotonic()
    report.reigns[before + 1] = Reign(version, started)
    seen, responded = await asyncio.gather(
        asyncio.gather(*(observer.sees(before + 1) for observer in observers)),
        _respond(request, before + 1),
    )
    converged = max(*seen, responded)
    report.reigns[before].ended = converged
    return responded - started, converged - started


async def _respond(request: Any, generation: int) -> float:
    answer = await request
    responded = time.monotonic()
    if answer.status_code != 200 or answer.json()["generation"] != generation:
        raise BenchmarkError(f"a change was refused: {answer.text}")
    return responded


@contextlib.asynccontextmanager
async def _clients(urls: Sequence[str]) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, timeout=20, trust_env=False, headers=CONTROL)
            )
            for url in urls
        ]


@contextlib.asynccontextmanager
async def _observers(urls: Sequence[str]) -> AsyncIterator[list[Observer]]:
    observers = [Observer(url) for url in urls]
    try:
        yield observers
    finally:
        for observer in observers:
            await observer.aclose()


def measure_drills(home: Path, drills: int, per_second: float = PER_SECOND) -> DrillReport:
    """Start Triton, Redis, the replicas and HAProxy, and run the drills.

    Raises:
        BenchmarkError: a change was refused, or a replica does not follow.
        ServerError: a server did not start.
    """
    write_entry(home / "repository", DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(home / "repository", home) as triton,
        run_redis(home / "redis") as redis,
        replicas_behind_haproxy(home, triton, redis, count=REPLICAS) as (url, replicas),
    ):
        urls = [replica.url for replica in replicas]
        return asyncio.run(drill_under_load(url, urls, drills=drills, per_second=per_second))


def main() -> int:
    """Run the drills and print the figures; exit code 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.drills")
    parser.add_argument("--drills", type=int, default=1_000)
    parser.add_argument("--per-second", type=float, default=PER_SECOND, help="requests, of all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure_drills(Path(folder), arguments.drills, arguments.per_second)
    sys.stdout.write(json.dumps(report.summary(), indent=1) + "\n")
    for answer in report.failed[:5]:
        sys.stdout.write(f"{answer}\n")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
