"""A day in minutes: switches under load, and everything started anew again and again.

A span is some switches under load, and a round is the spans between two restarts of all servers
that may be restarted. After each span version 2 is retired from Triton and loaded again, and what
every server holds is measured while nothing is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from platform_assets.local_stack.triton_server import shared_memory_prefix
from serving_gateway.contract import DEFAULT_MODEL
from tests.benchmarks.switches import Outcome, replicas_on_redis, switch_under_load
from tests.faults.scale import scale
from tests.support.footprint import Footprint, footprint
from tests.support.gateway_harness import RunningGateway, serve_versions
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import (
    RunningProcess,
    RunningTriton,
    run_haproxy,
    run_redis,
    run_triton,
    wait_until,
)

_RECOVERY_SECONDS: Final = 20.0
_CONNECTIONS: Final = 4
_EVERY_SECONDS: Final = 0.1
_PER_SECOND: Final = scale(50, 0)
"""Requests of all clients; 0: as many as are answered."""
_IDLE_SECONDS: Final = 5.0
"""In which the connections of a load that is over are gone."""

Held = Mapping[str, Footprint]
"""By server: what it holds at one moment."""


@dataclass(slots=True)
class Platform:
    """The servers, and how they are started anew."""

    home: Path
    url: str
    triton: RunningTriton
    redis: RunningProcess
    replicas: Sequence[RunningGateway]
    balancer: RunningProcess

    @property
    def processes(self) -> dict[str, RunningProcess]:
        """By name."""
        gateways = {f"replica {n}": one.process for n, one in enumerate(self.replicas)}
        return {**gateways, "Triton": self.triton.process, "Redis": self.redis}

    def held(self) -> dict[str, Footprint]:
        """What every server holds, the balancer's included."""
        servers = {**self.processes, "HAProxy": self.balancer}
        return {name: footprint(one.server) for name, one in servers.items()}

    def generations(self) -> set[int]:
        """That the replicas route by."""
        return {int(one.client.get("/health").json()["generation"]) for one in self.replicas}

    def restart(self) -> None:
        """Stop gateways, Triton and Redis, so that none is left, and start them again.

        Redis keeps nothing, so that the record comes back from the replicas' snapshots.
        """
        before, processes = self.generations(), self.processes
        for process in processes.values():
            process.stop()
        for process in reversed(processes.values()):
            process.start()
        for replica in self.replicas:
            replica.wait_ready(_RECOVERY_SECONDS)
        wait_until(lambda: self.generations() == before, 10, f"generation {before} is back")

    def replace_candidate(self) -> None:
        """Retire version 2 from Triton, and load it again beside version 1."""
        for versions in ((1,), (1, 2)):
            serve_versions(self.triton, *versions)
        for replica in self.replicas:
            replica.wait_ready()


@contextlib.contextmanager
def run_platform(home: Path) -> Iterator[Platform]:
    """Two replicas on Redis behind HAProxy, and a Triton with two versions READY."""
    write_entry(home / "repository", DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(home / "repository", home) as triton,
        run_redis(home / "redis") as redis,
        replicas_on_redis(home, triton, redis) as replicas,
        run_haproxy(home, [replica.url for replica in replicas]) as balancer,
    ):
        yield Platform(home, balancer.url, triton, redis.process, replicas, balancer.process)


@dataclass(slots=True)
class Endurance:
    """What became of all requests, and what the servers held after each span."""

    rounds: list[list[Held]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    """In the servers' directories and in shared memory, after each round."""
    switches: int = 0
    requests: int = 0
    failed: int = 0
    wrongly_answered: int = 0
    longest: float = 0.0
    """Seconds of the longest answer."""
    restarts: list[float] = field(default_factory=list)
    """Seconds from the first stop until all replicas could answer again."""

    def count(self, outcome: Outcome) -> None:
        """Add a span's requests; they are not kept."""
        self.switches += len(outcome.convergence)
        self.requests += len(outcome.answers)
        self.failed += len(outcome.failed)
        self.wrongly_answered += len(outcome.wrongly_answered)
        self.longest = max(self.longest, *(one.seconds for one in outcome.answers))

    def comparisons(self) -> list[tuple[Held, Held]]:
        """Moments between which nothing may have grown.

        In each round the first span and the last; and of the first round and the last.
        """
        within = [(spans[0], spans[-1]) for spans in self.rounds]
        return [*within, (self.rounds[0][-1], self.rounds[-1][-1])]

    def summary(self) -> dict[str, Any]:
        """The figures; growth is the highest of all comparisons."""
        grown: dict[str, float] = {}
        descriptors: dict[str, int] = {}
        for before, after in self.comparisons():
            for name, now in after.items():
                percent = round(before[name].growth_to(now), 1)
                grown[name] = max(percent, grown.get(name, percent))
                more = now.descriptors - before[name].descriptors
                descriptors[name] = max(more, descriptors.get(name, more))
        return {
            "switches": self.switches,
            "restarts": len(self.restarts),
            "requests": self.requests,
            "failed": self.failed,
            "answered_by_a_version_not_effective": self.wrongly_answered,
            "longest_answer_ms": round(self.longest * 1e3, 1),
            "longest_restart_seconds": round(max(self.restarts, default=0.0), 1),
            "resident_memory_growth_percent": grown,
            "descriptors_gained": descriptors,
            "files_gained": self.files[-1] - self.files[0],
        }


def endure(platform: Platform, *, rounds: Sequence[int], span: int) -> Endurance:
    """Make as many switches in each round as listed, in spans of so many, a restart after each.

    A span has an even number of switches, so that it ends on version 1.
    """
    endurance = Endurance()
    for number, switches in enumerate(rounds):
        if number:
            began = time.monotonic()
            platform.restart()
            endurance.restarts.append(time.monotonic() - began)
        spans: list[Held] = []
        for _ in range(0, switches, span):
            urls = [replica.url for replica in platform.replicas]
            endurance.count(
                asyncio.run(
                    switch_under_load(
                        platform.url,
                        urls,
                        switches=span,
                        connections=_CONNECTIONS,
                        every=_EVERY_SECONDS,
                        per_second=_PER_SECOND or None,
                    )
                )
            )
            platform.replace_candidate()
            spans.append(_settled(platform))
        endurance.rounds.append(spans)
        endurance.files.append(_files(platform))
        sys.stderr.write(f"round {number + 1} of {len(rounds)}: {endurance.summary()}\n")
    return endurance


def _settled(platform: Platform) -> Held:
    """What the servers hold once a load's connections are gone."""
    held, deadline = platform.held(), time.monotonic() + _IDLE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.2)
        before, held = held, platform.held()
        if all(held[name].descriptors >= one.descriptors for name, one in before.items()):
            break
    return held


def _files(platform: Platform) -> int:
    regions = f"{shared_memory_prefix(platform.home)}*"
    return len([*platform.home.rglob("*"), *Path("/dev/shm").glob(regions)])
