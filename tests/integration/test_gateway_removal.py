"""Variant B and whole models are taken away, on every replica and for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import RunningRedis, RunningTriton, run_triton, wait_until

OTHER = "other_model"
PREDICT = f"/models/{OTHER}/predict"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    home = tmp_path_factory.mktemp("removal")
    write_entry(home / "repository", DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    write_entry(home / "repository", OTHER, {7: telltale(7)})
    with run_triton(home / "repository", home) as running:
        yield running


@pytest.fixture
def replicas(
    tmp_path: Path, triton: RunningTriton, redis: RunningRedis
) -> Iterator[Sequence[RunningGateway]]:
    env = {"GATEWAY_REDIS_URL": redis.url}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(run_gateway(tmp_path / name, triton.http_url, env=env, name=name))
            for name in ("one", "two")
        ]


def hosts(replica: RunningGateway) -> list[str]:
    return list(replica.models()["models"])


def status(replica: RunningGateway) -> int:
    return replica.client.post(PREDICT, json={"data": [ROW]}).status_code


def snapshot(replica: RunningGateway) -> Path:
    return replica.state_dir / f"snapshot-{OTHER}.json"


def host(replica: RunningGateway) -> Any:
    path = f"/models/{OTHER}/variant/A/reload"
    answer = replica.client.post(path, json={"version": 7, "run_id": "r"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def remove(replica: RunningGateway, **query: str) -> tuple[int, Any]:
    answer = replica.client.delete(f"/models/{OTHER}", params=query)
    return answer.status_code, answer.json()


def traffic(replica: RunningGateway, path: str) -> list[str]:
    """Variants that had requests lately, at any replica."""
    found = replica.client.get(path).json()["replicas"]
    return [alias for one in found for alias in one["traffic"]]


def test_a_model_is_removed_from_all_replicas_and_stays_away(
    replicas: Sequence[RunningGateway],
) -> None:
    one, two = replicas
    assert remove(one)[0] == 404
    host(one)
    wait_until(lambda: status(two) == 200, 5, "both host it")
    wait_until(lambda: snapshot(two).exists(), 5, "a snapshot is kept")

    # The traffic was at the other replica, which reports it.
    wait_until(lambda: "A" in traffic(one, f"/models/{OTHER}"), 5, "it is reported")
    code, body = remove(one)
    assert (code, body["code"]) == (409, "variant_has_traffic")
    assert status(one) == 200
    two.process.stop()
    code, body = remove(one, force="true", reason="not needed")
    assert (code, body["versions"], body["changed"]) == (200, {"A": 7}, True), body
    assert status(one) == 404
    assert snapshot(two).exists()
    two.process.start()
    assert status(two) == 404, "a replica that was down does not bring it back"
    for replica in replicas:
        wait_until(lambda: not snapshot(replica).exists(), 5, "the snapshot is gone")  # noqa: B023
        assert hosts(replica) == [DEFAULT_MODEL]
    assert f'model="{OTHER}"' not in one.client.get("/metrics").text
    again = host(two)
    assert again["generation"] == body["generation"] + 1
    wait_until(lambda: status(one) == 200, 5, "it is hosted again")


def test_the_default_model_can_be_removed_and_the_replica_stays_ready(
    replicas: Sequence[RunningGateway],
) -> None:
    one, two = replicas
    one.routed(1)
    wait_until(two.ready, 5, "both follow")
    answer = one.client.delete(f"/models/{DEFAULT_MODEL}")
    assert answer.status_code == 200, answer.text
    wait_until(lambda: two.predict().status_code == 503, 5, "the other replica follows")
    for replica in replicas:
        assert replica.predict().json()["code"] == "no_effective_version"
        assert replica.client.get("/ready").status_code == 200
    two.routed(2)
    wait_until(lambda: one.predict().json().get("version") == 2, 5, "it is back")


def test_variant_b_is_cleared_with_its_traffic(replicas: Sequence[RunningGateway]) -> None:
    one, two = replicas
    one.routed(1)
    one.routed(2, alias="B")
    assert one.traffic("split", 100).status_code == 200
    wait_until(lambda: two.predict(client_id="c").json().get("variant") == "B", 5, "B answers")

    wait_until(lambda: "B" in traffic(one, "/models"), 5, "B has traffic at the other replica")
    answer = one.client.delete("/variant/B")
    assert (answer.status_code, answer.json()["code"]) == (409, "variant_has_traffic")
    answer = one.client.delete("/variant/B", params={"force": "true"})
    assert (answer.status_code, answer.json()["version"]) == (200, 2), answer.text
    assert answer.json()["traffic_turned_off"]
    assert answer.json()["traffic"]["strategy"] == "off"
    wait_until(lambda: two.predict(client_id="c").json().get("variant") == "A", 5, "A answers")
    assert set(two.models()["effective"]) == {"A"}
    refused_a = one.client.delete("/variant/A", params={"force": "true"})
    assert (refused_a.status_code, refused_a.json()["code"]) == (409, "production_variant")
    back = one.client.post("/variant/B/rollback")
    assert (back.status_code, back.json()["version"]) == (200, 2)
