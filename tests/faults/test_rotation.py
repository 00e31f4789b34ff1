"""Keys and tokens are replaced while clients use them: no valid one is refused, none is shown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from tests.faults.scale import report, scale
from tests.support.connection import Connection
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.rollout import Service, run_services
from tests.support.servers import (
    NO_ROOTS,
    RunningRedis,
    RunningTriton,
    wait_until,
)

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.needs("redis-server")]

_ROTATIONS: Final = scale(1, 20)
_NAME: Final = "ada"
_PAUSE_SECONDS: Final = scale(0.12, 0.04)


class Secrets(NamedTuple):
    """What a client and an operator have between two rotations."""

    key: str
    token: str

    @classmethod
    def of(cls, number: int) -> Secrets:
        """The ones that a rotation brings."""
        return cls(f"a-secret-key-{number:04}", f"a-secret-token-{number:04}")


def environ(*valid: Secrets) -> dict[str, str]:
    """Settings by which a gateway accepts these."""
    return {
        "GATEWAY_API_KEYS": ",".join(one.key for one in valid),
        "GATEWAY_CONTROL_TOKENS": ",".join(f"{_NAME}:{one.token}" for one in valid),
    }


@dataclass(slots=True)
class Caller:
    """Sends one kind of request after the other with the same secret."""

    url: str
    headers: tuple[str, ...]
    method: str
    path: str
    body: Any
    statuses: list[tuple[float, float, int]] = field(default_factory=list)
    """When a request was sent, when its answer had come, and its status, 0 without any."""
    answers: set[str] = field(default_factory=set)
    """Bodies of all answers that were not successful."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Ask until it is over."""
        async with Connection(self.url) as connection:
            while not self.over.is_set():
                sent = time.monotonic()
                try:
                    status, answer = await connection.ask(
                        self.method, self.path, *self.headers, body=self.body
                    )
                except (OSError, EOFError) as error:
                    status, answer = 0, repr(error)
                self.statuses.append((sent, time.monotonic(), status))
                if status != 200:
                    self.answers.add(str(answer))
                await asyncio.sleep(_PAUSE_SECONDS)


def callers(url: str, secrets: Secrets) -> list[Caller]:
    """A client by each header, a tool of the platform, and an operator who confirms version 1."""
    bearer = f"authorization: Bearer {secrets.token}"
    question = {"data": [ROW]}
    asked: list[tuple[tuple[str, ...], str, str, Any]] = [
        ((f"x-api-key: {secrets.key}",), "POST", "/predict", question),
        ((f"authorization: Bearer {secrets.key}",), "POST", "/predict", question),
        ((bearer, "x-platform-request: 1"), "POST", "/predict", question),
        ((f"x-api-key: {secrets.key}",), "GET", "/models", None),
        ((bearer,), "PUT", "/traffic", {"strategy": "off", "percent": 0}),
        ((bearer,), "POST", "/variant/A/reload", {"version": 1, "run_id": "run-1"}),
    ]
    return [Caller(url, *one) for one in asked]


@dataclass(slots=True)
class Fleet:
    """Two replicas behind a balancer, on one Redis."""

    home: Path
    replicas: Sequence[RunningGateway]
    balancer: Service

    async def roll(self, *valid: Secrets) -> None:
        """Restart one replica after the other with other secrets, while the balancer leaves it."""
        for replica in self.replicas:
            port = port_of(replica)
            self.balancer.remove(port)
            replica.process.env = {**replica.process.env, **environ(*valid)}
            await asyncio.to_thread(replica.process.restart)
            await asyncio.to_thread(wait_until, functools.partial(is_ready, replica), 60, "ready")
            self.balancer.add(port)

    async def statuses(self, secrets: Secrets) -> set[int]:
        """What each replica and the balancer answer to each kind of request with these."""
        urls = [*(one.url for one in self.replicas), self.balancer.url]
        found: set[int] = set()
        for caller in (one for url in urls for one in callers(url, secrets)):
            caller.over.set()
            async with Connection(caller.url) as connection:
                status, _ = await connection.ask(
                    caller.method, caller.path, *caller.headers, body=caller.body
                )
            found.add(status)
        return found

    def texts(self, secrets: Secrets) -> Iterator[tuple[str, str]]:
        """All that is kept in files, or shown to those who may see all, by its place."""
        for path in self.home.rglob("*"):
            if path.is_file():
                yield str(path.relative_to(self.home)), path.read_text(errors="replace")
        headers = {"authorization": f"Bearer {secrets.token}"}
        for replica in self.replicas:
            for page in ("/metrics", "/models", "/shadow", "/openapi.json", "/docs", "/"):
                yield page, replica.client.get(page, headers=headers).text


def provoked(url: str, secrets: Secrets) -> Iterator[str]:
    """Answers to requests that are refused, made with secrets in each place for them."""
    with httpx.Client(base_url=url, trust_env=False, verify=NO_ROOTS) as client:
        for secret in secrets:
            for headers in (
                {"x-api-key": secret},
                {"authorization": f"Bearer {secret}"},
                {"authorization": f"Basic {secret}"},
                {"authorization": secret},
                {"x-api-key": f"{secret}-"},
            ):
                for path in ("/predict", "/nowhere", "/variant/A/reload", "/outcomes", "/release"):
                    yield client.post(path, headers=headers, content=b"{").text


@contextlib.contextmanager
def run_fleet(home: Path, triton: RunningTriton, redis: RunningRedis) -> Iterator[Fleet]:
    """Run one with the secrets of rotation 0, and version 1 in production."""
    env = {
        **environ(Secrets.of(0)),
        "GATEWAY_REDIS_URL": redis.url,
        "GATEWAY_CONTROL_TOKEN": "a-token-that-is-not-replaced",
        "GATEWAY_ACCESS_LOG": "true",
        "GATEWAY_LOG_LEVEL": "DEBUG",
    }
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(run_gateway(home / name, triton.http_url, env=env))
            for name in ("one", "two")
        ]
        replicas[0].client.headers["authorization"] = f"Bearer {env['GATEWAY_CONTROL_TOKEN']}"
        replicas[0].routed(1)
        del replicas[0].client.headers["authorization"]
        for replica in replicas:
            replica.wait_ready()
        balancer, _ = stack.enter_context(run_services(home / "balancer"))
        for replica in replicas:
            balancer.add(port_of(replica))
        yield Fleet(home, replicas, balancer)


def port_of(replica: RunningGateway) -> int:
    """Where a replica listens."""
    return int(replica.url.rpartition(":")[2])


def is_ready(replica: RunningGateway) -> bool:
    """Whether a balancer may send requests to a replica."""
    return replica.client.get("/ready").status_code == 200


@dataclass(slots=True)
class Rotation:
    """What became of the requests of those whose secret was valid."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    longest: float = 0.0

    def count(self, asked: Sequence[Caller], since: float, until: float) -> None:
        """Count what was sent and answered between two moments."""
        for caller in asked:
            place = f"{caller.method} {caller.path} {caller.headers[0].partition(':')[0]}"
            within = [one for one in caller.statuses if since <= one[0] and one[1] <= until]
            assert within, place
            self.requests += len(within)
            self.failed += [f"{status}: {place}" for *_, status in within if status != 200]
            self.answers |= caller.answers
            self.longest = max(self.longest, *(received - sent for sent, received, _ in within))


async def rotate(fleet: Fleet, number: int, rotation: Rotation) -> None:
    """Replace the secrets of a number by the next ones, while both are used."""
    old, new = Secrets.of(number), Secrets.of(number + 1)
    assert await fleet.statuses(old) == {200}
    assert await fleet.statuses(new) == {401}
    began, by_old, by_new = time.monotonic(), *(callers(fleet.balancer.url, s) for s in (old, new))
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(caller.run()) for caller in by_old]
        await fleet.roll(old, new)
        both = time.monotonic()
        running += [tasks.create_task(caller.run()) for caller in by_new]
        await asyncio.sleep(0.4)
        removed = time.monotonic()
        await fleet.roll(new)
        ended = time.monotonic()
        for caller in (*by_old, *by_new):
            caller.over.set()
    rotation.count(by_old, began, removed)
    rotation.count(by_new, both, ended)
    assert await fleet.statuses(old) == {401}
    assert await fleet.statuses(new) == {200}


def change(replica: RunningGateway, secrets: Secrets) -> Any:
    """The routing record after a change in the name of a token's owner."""
    headers = {"authorization": f"Bearer {secrets.token}"}
    body = {"version": 2, "run_id": "run-2"}
    answer = replica.client.post("/variant/B/reload", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return replica.client.get("/models", headers=headers).json()["routing"]


def test_no_caller_with_a_valid_secret_is_refused_and_no_secret_is_shown(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    rotation = Rotation()
    with run_fleet(tmp_path, shared_triton, redis) as fleet:
        for number in range(_ROTATIONS):
            asyncio.run(rotate(fleet, number, rotation))
        last = Secrets.of(_ROTATIONS)
        all_of = [Secrets.of(number) for number in range(_ROTATIONS + 1)]
        for url in (*(one.url for one in fleet.replicas), fleet.balancer.url):
            for secrets in (all_of[0], last):
                rotation.answers.update(provoked(url, secrets))
        routing = change(fleet.replicas[0], last)
        places = [*fleet.texts(last), *(("an answer", text) for text in rotation.answers)]
    report(
        "rotation",
        requests=rotation.requests,
        failed=len(rotation.failed),
        longest_answer_ms=round(rotation.longest * 1e3, 1),
        rotations=_ROTATIONS,
    )
    assert rotation.failed == []
    assert routing["changed_by"] == f"token:{_NAME}"
    secret = [value for secrets in all_of for value in secrets]
    assert [place for place, text in places if any(one in text for one in secret)] == []
    assert any("/predict" in text for place, text in places if place.endswith(".log"))
