"""What replicas do when the store loses commits: all end up alike, and nothing is lost silently."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis

from serving_gateway.contract import DEFAULT_MODEL, RoutingRecord
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.servers import RunningRedis, RunningTriton, wait_until

KEY = f"gateway:{{{DEFAULT_MODEL}}}:routing"
WATCH_SECONDS = 0.5


@pytest.fixture
def replicas(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> Iterator[Sequence[RunningGateway]]:
    """Two replicas on Redis that route to version 1 at generation 1."""
    env = {"GATEWAY_REDIS_URL": redis.url, "GATEWAY_REPLICA_SECONDS": "60"}
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                run_gateway(tmp_path / name, shared_triton.http_url, env=env, name=name)
            )
            for name in ("one", "two")
        ]
        running[0].routed(1)
        wait_until(lambda: routed(running) == [(1, 1), (1, 1)], 30, "both follow")
        yield running


@pytest.fixture
def client(redis: RunningRedis) -> Iterator[Any]:
    """Untyped, since redis-py's types cover its asynchronous client too."""
    with Redis.from_url(redis.url) as connected:
        yield connected


def stored(client: Any) -> RoutingRecord:
    return msgspec.json.decode(client.get(KEY), type=RoutingRecord)


def routed(replicas: Sequence[RunningGateway]) -> list[tuple[int, int]]:
    """Generation and version of each replica."""
    answers = [replica.predict().json() for replica in replicas]
    return [(one.get("generation"), one.get("version")) for one in answers]


def page(replica: RunningGateway) -> Any:
    return replica.models()


def test_equal_generations_with_different_content_converge_on_the_store(
    replicas: Sequence[RunningGateway], client: Any
) -> None:
    one, two = replicas
    before = stored(client)
    one.routed(2)
    wait_until(lambda: routed(replicas) == [(2, 2), (2, 2)], 30, "both follow")
    # A failover lost that commit, and another one took its number.
    other = msgspec.structs.replace(before, generation=2, reason="after the failover")
    two.process.signal(signal.SIGSTOP)
    try:
        client.set(KEY, msgspec.json.encode(other))
        wait_until(lambda: routed([one]) == [(2, 1)], 30, "the store's record is taken")
        assert page(one)["in_sync"] is False
    finally:
        two.process.signal(signal.SIGCONT)
    wait_until(lambda: routed(replicas) == [(2, 1), (2, 1)], 30, "both take the store's record")
    wait_until(lambda: all(page(one)["in_sync"] for one in replicas), 30, "both say so")
    assert "an accepted change was dropped" in one.process.log_tail()


def test_lost_commits_are_noticed_within_the_watch_interval(
    replicas: Sequence[RunningGateway], client: Any
) -> None:
    """As above, by what a failover really does: the older revision is back too."""
    one, _ = replicas
    kept = {key: client.dump(key) for key in client.keys("gateway:*") if b"replica" not in key}
    one.routed(2)
    wait_until(lambda: routed(replicas) == [(2, 2), (2, 2)], 30, "both follow")
    other = msgspec.structs.replace(
        msgspec.json.decode(client.get(KEY), type=RoutingRecord),
        variants=stored_variants(kept, client),
    )
    with client.pipeline() as at_once:
        for key, dump in kept.items():
            at_once.restore(key, 0, dump, replace=True)
        at_once.set(KEY, msgspec.json.encode(other))
        at_once.execute()
    # Only the watch finds it: everything else that reads the store comes once a minute.
    wait_until(
        lambda: routed(replicas) == [(2, 1), (2, 1)], 30 * WATCH_SECONDS, "both take the record"
    )


def stored_variants(kept: dict[bytes, Any], client: Any) -> Any:
    client.restore("kept", 0, kept[KEY.encode()], replace=True)
    return msgspec.json.decode(client.get("kept"), type=RoutingRecord).variants


def test_an_accepted_change_after_a_loss_wins_over_an_older_record_of_a_higher_generation(
    replicas: Sequence[RunningGateway], client: Any
) -> None:
    one, two = replicas
    first = client.get(KEY)
    two.process.signal(signal.SIGSTOP)
    try:
        for version in (2, 1, 2):
            one.routed(version)
        assert routed([one]) == [(4, 2)]
        one.process.signal(signal.SIGSTOP)
        client.set(KEY, first)  # the store lost three commits
    finally:
        two.process.signal(signal.SIGCONT)
    try:
        answer = two.client.put("/traffic", json={"strategy": "off", "percent": 5})
        assert (answer.status_code, answer.json()["generation"]) == (200, 2)
    finally:
        one.process.signal(signal.SIGCONT)
    wait_until(lambda: routed(replicas) == [(5, 1), (5, 1)], 30, "the newest decision wins")
    wait_until(lambda: all(page(one)["in_sync"] for one in replicas), 30, "both say so")
    assert page(two)["routing"]["traffic"]["percent"] == 5
    assert "an accepted change was dropped" in one.process.log_tail()


def test_a_corrupt_key_affects_its_own_model_only(
    replicas: Sequence[RunningGateway], client: Any
) -> None:
    one, _ = replicas
    client.sadd("gateway:models", "bad")
    client.lpush("gateway:{bad}:routing", "x")
    problems: list[str | None] = []

    def judged() -> bool:
        problems.append(page(one)["routing"]["store_problem"])
        return "WRONGTYPE" in one.client.get("/models/bad/ready").text

    wait_until(judged, 30, "the model's trouble is reported")
    for version in (2, 1, 2, 1, 2, 1):
        one.routed(version)
        judged()
    assert set(problems) == {None}
    wait_until(lambda: routed(replicas) == [(7, 1), (7, 1)], 30, "both follow")
