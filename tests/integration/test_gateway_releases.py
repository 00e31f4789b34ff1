"""A release on real servers: two replicas that share a Redis, or a folder, before one Triton."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serving_gateway.contract import PhaseEvidence, ReleaseEvidence
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication import release_counts
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.release_counts import RedisReleaseCounts
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.release_stops import SPLIT, act, begin, measure_stops
from tests.support.servers import RunningRedis, RunningTriton, run_redis, wait_until

MIRROR = {"strategy": "mirror", "percent": 100}


@contextlib.contextmanager
def run_replicas(home: Path, triton_url: str, store: str) -> Iterator[Sequence[RunningGateway]]:
    """Two gateways with version 1 in production, not pinned."""
    with contextlib.ExitStack() as stack:
        env = {"GATEWAY_STATE_DIR": str(home / "shared")}
        if store == "redis":
            redis = stack.enter_context(run_redis(home / "redis"))
            env = {"GATEWAY_REDIS_URL": redis.url}
        replicas = [
            stack.enter_context(run_gateway(home / name, triton_url, env=env, name=name))
            for name in ("one", "two")
        ]
        answer = replicas[0].reload(version=1, run_id="run-1", mode="ssot")
        assert answer.status_code == 200, answer.text
        wait_until(replicas[1].ready, 5, "both follow")
        yield replicas


@pytest.fixture(scope="module", params=["redis", "files"])
def replicas(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    shared_triton: RunningTriton,
) -> Iterator[Sequence[RunningGateway]]:
    home = tmp_path_factory.mktemp("releases")
    with run_replicas(home, shared_triton.http_url, request.param) as running:
        yield running


def report(replica: RunningGateway) -> Any:
    return replica.client.get("/release").json()


def test_a_stop_at_one_replica_puts_the_clients_of_all_on_a_at_once(
    replicas: Sequence[RunningGateway],
) -> None:
    took = sorted(measure_stops(replicas, 10))
    assert took[len(took) // 2] < 0.1, took
    assert took[-1] < 0.4, "less than the watcher's interval, so it was announced"


def test_a_release_goes_its_way_over_two_replicas_and_a_restart(
    replicas: Sequence[RunningGateway],
) -> None:
    one, two = replicas
    release = begin(one, MIRROR, SPLIT, approval="before_switch", guardrails={"failures": 0.005})
    wait_until(lambda: report(two)["release"] == release, 5, "the other one follows")
    for _ in range(5):
        one.predict()
        two.predict()

    def copies(replica: RunningGateway) -> int:
        phases = report(replica)["evidence"]["phases"]
        return int(phases["0"]["compared"]) if phases else 0

    for replica in replicas:
        wait_until(lambda: copies(replica) == 10, 10, "what both counted adds up")  # noqa: B023
    two.process.stop()
    two.process.start()
    two.wait_ready()
    after = report(two)
    assert after["release"] == release, "a restarted replica goes on from the record"
    assert after["evidence"]["phases"]["0"]["candidate"]["requests"] == 10
    for state, step in (("running", 0), ("running", 1)):
        act(two, "advance", id=release["id"], state=state, step=step, verdict="go")
    early = one.reload(version=2, run_id="run-2", mode="ssot")
    assert (early.status_code, early.json()["code"]) == (409, "release_not_cleared"), early.text
    assert act(two, "approve")["state"] == "cleared"
    switched = one.reload(version=2, run_id="run-2", mode="ssot")
    assert switched.status_code == 200, switched.text
    for replica in replicas:
        wait_until(lambda: replica.predict().json()["version"] == 2, 5, "it is switched")  # noqa: B023
    routing = two.models()["routing"]
    assert (routing["release"]["state"], routing["traffic"]["strategy"]) == ("watching", "mirror")
    assert act(two, "stop")["state"] == "rolled_back"
    for replica in replicas:
        wait_until(lambda: replica.predict().json()["version"] == 1, 5, "it is rolled back")  # noqa: B023
    refused = one.client.post(
        "/release", json={"version": 2, "run_id": "r", "plan": {"steps": [MIRROR]}}
    )
    assert refused.json()["code"] == "variant_pinned"
    assert one.reload(version=1, mode="ssot", unpin=True).status_code == 200


async def test_counts_in_redis_are_bounded_and_expire_a_day_after_the_release(
    redis: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_counts, "MOST_PROCESSES", 2)
    connection = RedisConnection(SecretStr(redis.url))
    store, evidence = RedisReleaseCounts(connection), ReleaseEvidence("id", {"0": PhaseEvidence()})
    try:
        for process in ("one", "two"):
            await store.put("m", process, evidence, has_ended=False)
        with pytest.raises(StoreUnavailable, match="2 processes"):
            await store.put("m", "three", evidence, has_ended=False)
        assert await store.read("m", "id") == {"one": evidence, "two": evidence}
        async with connection.session() as client:
            assert await client.ttl("gateway:{m}:release:id") > 2 * 86_400
            await store.end("m", "id")
            assert 0 < await client.ttl("gateway:{m}:release:id") <= 86_400
        redis.process.kill()
        with pytest.raises(StoreUnavailable):
            await store.read("m", "id")
    finally:
        await connection.aclose()
