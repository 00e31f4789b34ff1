"""Four replicas on Redis, switched and killed while clients write down what they see."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.faults.histories import Visit
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.load import Reign
from tests.support.servers import RunningRedis, RunningTriton

REPLICAS: Final = 4
CLIENTS_OF_EACH: Final = 2
EVERY_SECONDS: Final = 0.06
"""From one switch to the next."""
_PAUSE_SECONDS: Final = 0.006
_FOLLOW_SECONDS: Final = 20.0
_TOKEN: Final = "a-token-of-the-histories"
_CONTROL: Final = {"authorization": f"Bearer {_TOKEN}"}


@dataclass(slots=True)
class Seen:
    """All that the clients saw, and what was effective."""

    visits: list[Visit] = field(default_factory=list)
    reigns: dict[int, Reign] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    """Answers of live replicas that were no success."""
    behind: int = 0
    """Requests that asked for a generation which the replica did not have yet."""
    kills: int = 0

    def summary(self) -> dict[str, Any]:
        """The figures of the long form."""
        waits = [one.received - one.sent for one in self.visits]
        return {
            "requests": len(self.visits),
            "failed": len(self.failed),
            "longest_answer_ms": round(max(waits) * 1e3, 1),
            "switches": len(self.reigns) - 1,
            "kills": self.kills,
            "refused_as_behind": self.behind,
        }


class Connection:
    """One connection to a replica, over which one request follows another."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._host, self._port = address.hostname, address.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.number = 0
        """How often it was made anew."""

    async def ask(self, method: str, path: str, *headers: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer; `OSError` or `EOFError` where there is none."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: gateway", "content-type: application/json"]
        head = "\r\n".join([*lines, *headers, f"content-length: {len(content)}", "", ""])
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
                self.number += 1
            reader, writer = self._streams
            writer.write(head.encode() + content)
            answer = await reader.readuntil(b"\r\n\r\n")
            size = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            found = json.loads(await reader.readexactly(size))
        except (OSError, EOFError):
            await self.close()
            raise
        return int(answer.split(b" ", 2)[1]), found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End it; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None


@dataclass(slots=True)
class Trial:
    """The replicas, and everything that goes on around them at the same time."""

    replicas: Sequence[RunningGateway]
    seen: Seen = field(default_factory=Seen)
    down: set[int] = field(default_factory=set)
    """Replicas that are killed and not ready again."""
    moments: list[list[tuple[float, int]]] = field(default_factory=list)
    """By replica: when it was seen to have reached which generation."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, switches: int, kills: int) -> Seen:
        """Make all switches while clients ask."""
        self.moments = [[] for _ in self.replicas]
        self.seen.reigns[1] = Reign(1, time.monotonic())
        async with asyncio.TaskGroup() as tasks:
            for number in range(REPLICAS):
                tasks.create_task(self._observe(number))
                for client in range(CLIENTS_OF_EACH):
                    tasks.create_task(self._stay(number, f"client {number}.{client}"))
            tasks.create_task(self._wander())
            try:
                await self._switch(switches, kills, tasks)
                async with asyncio.timeout(_FOLLOW_SECONDS):
                    # What ends is a process.
                    while self.down or not self._have_followed(switches + 1):  # noqa: ASYNC110
                        await asyncio.sleep(_PAUSE_SECONDS)
            finally:
                self.over.set()
        for generation in range(1, switches + 1):
            left = [next(at for at, one in all_of if one > generation) for all_of in self.moments]
            self.seen.reigns[generation].ended = max(left)
        return self.seen

    def _have_followed(self, generation: int) -> bool:
        return all(moments[-1][1] >= generation for moments in self.moments)

    async def _switch(self, switches: int, kills: int, tasks: asyncio.TaskGroup) -> None:
        kill_at = {(number + 1) * switches // (kills + 1) for number in range(kills)}
        for number in range(switches):
            if number in kill_at:
                tasks.create_task(self._restart(number % REPLICAS))
            up = [one for one in range(REPLICAS) if one not in self.down | {number % REPLICAS}]
            version, token = 2 - number % 2, f"authorization: {_CONTROL['authorization']}"
            self.seen.reigns[number + 2] = Reign(version, time.monotonic())
            body = {"version": version, "run_id": f"run-{version}"}
            async with Connection(self.replicas[up[number % len(up)]].url) as connection:
                status, answer = await connection.ask("POST", "/variant/A/reload", token, body=body)
            assert (status, answer.get("generation")) == (200, number + 2), answer
            await asyncio.sleep(EVERY_SECONDS)

    async def _restart(self, number: int) -> None:
        """Kill a replica and start it again."""
        if number in self.down:
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
        self.seen.visits.append(Visit(who, sent, received, answer["version"], generation, found))
        return generation


async def watch_switches(
    home: Path, triton: RunningTriton, redis: RunningRedis, switches: int, *, kills: int
) -> Seen:
    """Switch A between versions 1 and 2 so often, and kill a replica so often meanwhile."""
    with _running(home, triton, redis) as replicas:
        return await Trial(replicas).run(switches, kills)


@contextlib.contextmanager
def _running(
    home: Path, triton: RunningTriton, redis: RunningRedis
) -> Iterator[Sequence[RunningGateway]]:
    env = {"GATEWAY_REDIS_URL": redis.url, "GATEWAY_CONTROL_TOKEN": _TOKEN}
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(run_gateway(home / str(number), triton.http_url, env=env))
            for number in range(REPLICAS)
        ]
        replicas[0].client.headers.update(_CONTROL)
        replicas[0].routed(1)
        for replica in replicas:
            replica.wait_ready()
        yield replicas
