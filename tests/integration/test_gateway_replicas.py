"""Several replicas: each lists all live ones, and all follow a switch within a second (I7)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.servers import RunningRedis, RunningTriton, wait_until

Replicas = Sequence[RunningGateway]


@contextlib.contextmanager
def run_replicas(
    home: Path, triton: RunningTriton, count: int, redis: RunningRedis | None = None
) -> Iterator[Replicas]:
    """Replicas on Redis, each with a state directory of its own, or on one file store."""
    env = {} if redis is None else {"GATEWAY_REDIS_URL": redis.url}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                run_gateway(
                    home if redis is None else home / str(number),
                    triton.http_url,
                    env={**env, "GATEWAY_REPLICA_SECONDS": "2"},
                    name=f"replica-{number}",
                )
            )
            for number in range(count)
        ]


@pytest.fixture(params=["redis", "file"])
def replicas(
    tmp_path: Path,
    shared_triton: RunningTriton,
    redis: RunningRedis,
    request: pytest.FixtureRequest,
) -> Iterator[Replicas]:
    """Three replicas on Redis, two on one file store."""
    on_redis = request.param == "redis"
    with run_replicas(
        tmp_path, shared_triton, 3 if on_redis else 2, redis if on_redis else None
    ) as running:
        yield running


def listed(gateway: RunningGateway) -> dict[str, Any]:
    return {replica["id"]: replica for replica in gateway.models()["replicas"]}


def all_serve(replicas: Replicas, version: int) -> Callable[[], bool]:
    def condition() -> bool:
        return all(
            gateway.predict().json().get("version") == version
            and gateway.models()["in_sync"]
            and all(found["ready"] for found in listed(gateway).values())
            for gateway in replicas
        )

    return condition


def test_all_replicas_follow_within_a_second_and_every_one_sees_it(replicas: Replicas) -> None:
    wait_until(
        lambda: all(len(listed(gateway)) == len(replicas) for gateway in replicas), 5, "all listed"
    )
    own = {gateway.models()["replica"]["id"] for gateway in replicas}
    for number in range(4):
        replicas[number % len(replicas)].routed(1 + number % 2)
        started = time.monotonic()
        wait_until(all_serve(replicas, 1 + number % 2), 5, "all follow")
        assert time.monotonic() - started < 1
    for gateway in replicas:
        found = listed(gateway)
        assert set(found) == own
        assert {replica["generation"] for replica in found.values()} == {4}
        assert all(replica["age_seconds"] < 1.5 for replica in found.values())
        assert gateway.models()["replicas_problem"] is None


def test_a_replica_that_ends_leaves_and_one_that_died_expires(replicas: Replicas) -> None:
    first, last = replicas[0], replicas[-1]
    first.routed(1)
    wait_until(lambda: len(listed(first)) == len(replicas), 5, "all are listed")
    last.process.kill()
    assert len(listed(first)) == len(replicas)
    wait_until(lambda: len(listed(first)) == len(replicas) - 1, 5, "the dead one expires")
    last.process.start()
    wait_until(lambda: len(listed(first)) == len(replicas), 5, "it is back")
    last.process.stop()
    assert len(listed(first)) == len(replicas) - 1
    assert first.models()["in_sync"]


def test_without_the_store_no_replica_claims_to_be_in_sync(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    with run_replicas(tmp_path, shared_triton, 2, redis) as (one, two):
        one.routed(1)
        wait_until(lambda: len(listed(two)) == 2, 5, "both are listed")
        redis.process.kill()
        page = two.models()
        assert page["in_sync"] is False
        assert "Redis at 127.0.0.1" in page["replicas_problem"]
        assert [replica["id"] for replica in page["replicas"]] == [page["replica"]["id"]]
        redis.process.start()
        wait_until(lambda: len(listed(two)) == 2 and two.models()["in_sync"], 5, "both are back")
