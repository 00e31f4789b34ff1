"""Four replicas on Redis, switched, killed and cut off while clients write down what they see."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.histories import Visit
from tests.faults.scale import scale
from tests.support.connection import Connection
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.load import Reign
from tests.support.partitions import PartitionedRedis
from tests.support.servers import RunningRedis, RunningTriton

REPLICAS: Final = 4
CLIENTS_OF_EACH: Final = 2
EVERY_SECONDS: Final = 0.06
"""From one switch to the next."""
MISSED: Final = 5
"""Switches of the others that a replica misses while it is cut off."""
_PAUSE_SECONDS: Final = scale(0.015, 0.006)
_FOLLOW_SECONDS: Final = 60.0
_TOKEN: Final = "a-token-of-the-histories"
_CONTROL: Final = {"authorization": f"Bearer {_TOKEN}"}


@dataclass(slots=True)
class Partition:
    """A time in which one replica could not reach the store; times are monotonic seconds."""

    replica: int
    began: float
    held: int
    """The generation that it had."""
    ended: float = float("inf")
    missed: int = 0
    """Switches of the others meanwhile."""
    answers: int = 0
    """Requests that it answered meanwhile."""
    problems: list[str] = field(default_factory=list)
    """What it did otherwise than a replica without its store has to."""

    def concerns(self, replica: int, since: float, until: float) -> bool:
        """Whether this replica was cut off at some moment between these."""
        return self.replica == replica and self.began <= until and since <= self.ended


@dataclass(slots=True)
class WatchedReign(Reign):
    """Also when each replica left it."""

    left: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """All that the clients saw, and what was effective."""

    visits: list[Visit] = field(default_factory=list)
    reigns: dict[int, WatchedReign] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    """Answers of live replicas that were no success."""
    behind: int = 0
    """Requests that asked for a generation which the replica did not have yet."""
    kills: int = 0
    by_replica: dict[int, list[Visit]] = field(default_factory=lambda: defaultdict(list))
    partitions: list[Partition] = field(default_factory=list)

    def reigns_of(self, replica: int) -> dict[int, Reign]:
        """The generations as this replica may answer by them.

        One that was cut off from the store goes on with what it had; no other may wait for it.
        """
        found: dict[int, Reign] = {}
        for generation, reign in self.reigns.items():
            if (after := self.reigns.get(generation + 1)) is None:
                found[generation] = reign
                continue
            is_late = {
                one: any(cut.concerns(one, after.began, left) for cut in self.partitions)
                for one, left in reign.left.items()
            }
            in_time = [left for one, left in reign.left.items() if not is_late[one]]
            ended = reign.left[replica] if is_late[replica] else max(in_time)
            found[generation] = Reign(reign.version, reign.began, ended)
        return found

    def summary(self) -> dict[str, Any]:
        """The figures of the long form."""
        waits = [one.received - one.sent for one in self.visits]
        return {
            "requests": len(self.visits),
            "failed": len(self.failed),
            "longest_answer_ms": round(max(waits) * 1e3, 1),
            "switches": len(self.reigns) - 1,
            "kills": self.kills,
            "partitions": len(self.partitions),
            "answers_while_cut_off": sum(one.answers for one in self.partitions),
            "switches_missed": sum(one.missed for one in self.partitions),
            "refused_as_behind": self.behind,
        }


@dataclass(slots=True)
class Trial:
    """The replicas, and everything that goes on around them at the same time."""

    replicas: Sequence[RunningGateway]
    seen: Seen = field(default_factory=Seen)
    down: set[int] = field(default_factory=set)
    """Replicas that are killed and not ready again."""
    redis: PartitionedRedis | None = None
    cut: set[int] = field(default_factory=set)
    """Replicas that do not reach the store, or have not followed since."""
    moments: list[list[tuple[float, int]]] = field(default_factory=list)
    """By replica: when it was seen to have reached which generation."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    switched: asyncio.Event = field(default_factory=asyncio.Event)
    """All switches are made."""

    async def run(self, switches: int, kills: int, partitions: int = 0) -> Seen:
        """Make all switches while clients ask."""
        self.moments = [[] for _ in self.replicas]
        self.seen.reigns[1] = WatchedReign(1, time.monotonic())
        async with asyncio.TaskGroup() as tasks:
            for number in range(REPLICAS):
                tasks.create_task(self._observe(number))
                for client in range(CLIENTS_OF_EACH):
                    tasks.create_task(self._stay(number, f"client {number}.{client}"))
            tasks.create_task(self._wander())
            try:
                await self._switch(
                    switches, _spread(kills, switches), _spread(partitions, switches, 0.5), tasks
                )
                self.switched.set()
                async with asyncio.timeout(_FOLLOW_SECONDS):
                    # What ends is a process.
                    while self.down or self.cut or not self._have_followed(switches + 1):  # noqa: ASYNC110
                        await asyncio.sleep(_PAUSE_SECONDS)
            finally:
                self.over.set()
        for generation in range(1, switches + 1):
            left = {
                number: next(at for at, one in all_of if one > generation)
                for number, all_of in enumerate(self.moments)
            }
            self.seen.reigns[generation].left = left
            self.seen.reigns[generation].ended = max(left.values())
        return self.seen

    def _have_followed(self, generation: int) -> bool:
        return all(moments[-1][1] >= generation for moments in self.moments)

    async def _switch(
        self, switches: int, kill_at: set[int], cut_at: set[int], tasks: asyncio.TaskGroup
    ) -> None:
        for number in range(switches):
            if number in kill_at:
                tasks.create_task(self._restart(number % REPLICAS))
            if number in cut_at:
                tasks.create_task(self._partition((number + 1) % REPLICAS))
            async with self.changing:
                skipped = self.down | self.cut
                up = [one for one in range(REPLICAS) if one not in skipped | {number % REPLICAS}]
                version = 2 - number % 2
                self.seen.reigns[number + 2] = WatchedReign(version, time.monotonic())
                status, answer = await self._reload(up[number % len(up)], version)
                assert (status, answer.get("generation")) == (200, number + 2), answer
            await asyncio.sleep(EVERY_SECONDS)

    async def _reload(self, number: int, version: int) -> tuple[int, Any]:
        token = f"authorization: {_CONTROL['authorization']}"
        body = {"version": version, "run_id": f"run-{version}"}
        async with Connection(self.replicas[number].url) as connection:
            return await connection.ask("POST", "/variant/A/reload", token, body=body)

    async def _partition(self, number: int) -> None:
        """Cut a replica off from the store until it says so and has missed some switches."""
        if self.redis is None or number in self.down:
            return
        async with Connection(self.replicas[number].url) as connection:
            async with self.changing:
                self.cut.add(number)
                held = max(self.seen.reigns)
                await self._wait(connection, "/health", lambda one: one["generation"] == held)
                await asyncio.to_thread(self.redis.cut, number)
            partition = Partition(number, time.monotonic(), held)
            self.seen.partitions.append(partition)
            await self._wait(connection, "/models", lambda one: not one["in_sync"])
            await self._wait(connection, "/models", lambda one: one["routing"]["store_problem"])
            await self._check_cut_off(number, connection, partition)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FOLLOW_SECONDS):
                    # What switches is processes.
                    while not self.switched.is_set() and self._missed(partition) < MISSED:  # noqa: ASYNC110
                        await asyncio.sleep(_PAUSE_SECONDS)
            await self._check_cut_off(number, connection, partition)
            partition.missed, newest = self._missed(partition), max(self.seen.reigns)
            await asyncio.to_thread(self.redis.heal, number)
            await self._wait(connection, "/health", lambda one: one["generation"] >= newest)
            partition.ended = time.monotonic()
        seen = self.seen.by_replica[number]
        partition.answers = sum(partition.began <= one.sent < partition.ended for one in seen)
        self.cut.discard(number)

    def _missed(self, partition: Partition) -> int:
        return max(self.seen.reigns) - partition.held

    async def _check_cut_off(
        self, number: int, connection: Connection, partition: Partition
    ) -> None:
        """It stays ready with what it has, takes no change, and does not say that all is well."""
        _, models = await connection.ask("GET", "/models")
        ready, _ = await connection.ask("GET", "/ready")
        status, _ = await self._reload(number, 1 + models["routing"]["generation"] % 2)
        expected = {
            "in sync": models["in_sync"] is False,
            "at another generation": models["routing"]["generation"] == partition.held,
            "not ready": ready == 200,
            f"a change was answered {status}": status == 503,
        }
        partition.problems += [what for what, holds in expected.items() if not holds]

    async def _wait(
        self, connection: Connection, path: str, condition: Callable[[Any], bool]
    ) -> None:
        async with asyncio.timeout(_FOLLOW_SECONDS):
            while not condition((await connection.ask("GET", path))[1]):  # noqa: ASYNC110 -- over HTTP
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _restart(self, number: int) -> None:
        """Kill a replica and start it again."""
        if number in self.down | self.cut:
            return
        self.down.add(number)
        self.seen.kills += 1
        process = self.replicas[number].process
        await asyncio.to_thread(process.kill)
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(self.replicas[number].wait_ready)
        self.down.discard(number)

    async def _observe(self, number: int) -> None:
        async with Connection(self.replicas[number].url) as connection:
            while not self.over.is_set():
                with contextlib.suppress(OSError, EOFError):
                    _, answer = await connection.ask("GET", "/health")
                    self.moments[number].append((time.monotonic(), answer["generation"]))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _stay(self, number: int, name: str) -> None:
        """A client of one replica, which comes again after that was killed."""
        async with Connection(self.replicas[number].url) as connection:
            while not self.over.is_set():
                if number not in self.down:
                    with contextlib.suppress(OSError, EOFError):
                        await self._visit(connection, number, name)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _wander(self) -> None:
        """A client that a balancer sends to each replica in turn, and that wants no step back."""
        newest = turn = 0
        async with contextlib.AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(Connection(replica.url))
                for replica in self.replicas
            ]
            while not self.over.is_set():
                turn += 1
                number = turn % REPLICAS
                if number not in self.down:
                    with contextlib.suppress(OSError, EOFError):
                        wish = f"x-min-generation: {newest}"
                        newest = await self._visit(connections[number], number, "", wish) or newest
                await asyncio.sleep(_PAUSE_SECONDS / 3)

    async def _visit(
        self, connection: Connection, replica: int, name: str, *headers: str
    ) -> int | None:
        """Ask once; the generation that answered."""
        sent = time.monotonic()
        status, answer = await connection.ask("POST", "/predict", *headers, body={"data": [ROW]})
        received = time.monotonic()
        if status == 503 and answer["code"] == "replica_behind":
            self.seen.behind += 1
        elif status != 200 and replica not in self.down:
            self.seen.failed.append(str(answer))
        if status != 200:
            return None
        generation: int = answer["generation"]
        who = f"{name}#{connection.number}" if name else "wanderer"
        found = answer["predictions"][0]
        visit = Visit(who, sent, received, answer["version"], generation, found)
        self.seen.visits.append(visit)
        self.seen.by_replica[replica].append(visit)
        return generation


def _spread(count: int, switches: int, offset: float = 0.0) -> set[int]:
    """So many of the switches, evenly."""
    return {round((number + 1 - offset) * switches / (count + 1)) for number in range(count)}


async def watch_switches(
    home: Path,
    triton: RunningTriton,
    redis: RunningRedis | PartitionedRedis,
    switches: int,
    *,
    kills: int = 0,
    partitions: int = 0,
) -> Seen:
    """Switch A between versions 1 and 2 so often, while replicas are killed and cut off."""
    network = redis if isinstance(redis, PartitionedRedis) else None
    urls = [redis.url] * REPLICAS if isinstance(redis, RunningRedis) else redis.urls
    with _running(home, triton, urls) as replicas:
        return await Trial(replicas, redis=network).run(switches, kills, partitions)


@contextlib.contextmanager
def _running(
    home: Path, triton: RunningTriton, redis_urls: Sequence[str]
) -> Iterator[Sequence[RunningGateway]]:
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(run_gateway(home / str(number), triton.http_url, env=_env(url)))
            for number, url in enumerate(redis_urls)
        ]
        replicas[0].client.headers.update(_CONTROL)
        replicas[0].routed(1)
        for replica in replicas:
            replica.wait_ready()
        yield replicas


def _env(redis_url: str) -> dict[str, str]:
    return {
        "GATEWAY_REDIS_URL": redis_url,
        "GATEWAY_CONTROL_TOKEN": _TOKEN,
        # A machine that does much else at once does not look like a network that is cut.
        "GATEWAY_STORE_SECONDS": "2",
    }
