"""The replica that activates a version is killed, again and again: each activation happens once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from platform_assets.resources.gateway import GatewayResource
from serving_gateway.contract import DEFAULT_MODEL, Mode, ReloadRequest
from tests.faults.killing import KillPoint
from tests.faults.scale import report, scale
from tests.support.gateway_harness import Client, RunningGateway, run_gateway
from tests.support.servers import RunningTriton, run_redis

TOKEN = "control-token-of-the-activations"
COMMITS = {
    "redis": "serving_gateway.replication.redis_store:RedisStore.replace",
    "files": "serving_gateway.replication.file_store:FileStore.replace",
}


@contextlib.contextmanager
def run_replicas(
    home: Path, triton_url: str, store: str, points: Sequence[KillPoint]
) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    """A replica that dies at these points in turn, and one that lives; both serve version 1."""
    env = {"GATEWAY_CONTROL_TOKEN": TOKEN, "GATEWAY_STATE_DIR": str(home / "shared")}
    mortal = ("tests.faults.mortal_gateway", *map(str, points))
    with contextlib.ExitStack() as stack:
        if store == "redis":
            redis = stack.enter_context(run_redis(home / "redis"))
            env = {"GATEWAY_CONTROL_TOKEN": TOKEN, "GATEWAY_REDIS_URL": redis.url}
        other = stack.enter_context(run_gateway(home / "other", triton_url, env=env))
        other.client.headers["authorization"] = f"Bearer {TOKEN}"
        answer = other.reload(version=1, run_id="run-1", mode="ssot")
        assert answer.status_code == 200, answer.text
        dies = stack.enter_context(run_gateway(home / "dies", triton_url, env=env, program=mortal))
        yield dies, other


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize("store", COMMITS)
def test_activation_whose_replica_dies_around_the_commit_happens_once(
    tmp_path: Path, shared_triton: RunningTriton, store: str
) -> None:
    """Version 1 and 2 in turn, asked of the one that dies, as the pipeline does."""
    points = [KillPoint("before", COMMITS[store]), KillPoint("after", COMMITS[store])]
    kills, took = scale(2, 100), []
    with run_replicas(tmp_path, shared_triton.http_url, store, points) as (dies, other):
        gateway = GatewayResource(urls=f"{dies.url},{other.url}", control_token=TOKEN)
        with Client(other.url, pause_s=0.02) as client:
            for number in range(kills):
                target, generation = 2 - number % 2, number + 2
                request = ReloadRequest(target, f"run-{target}", mode=Mode.SSOT)
                asked = time.monotonic()
                answer = gateway.reload(DEFAULT_MODEL, "A", request)
                convergence = gateway.wait_until_converged(DEFAULT_MODEL, "A", answer, 60)
                took.append(time.monotonic() - asked)
                assert convergence.behind == {}
                assert (answer.version, answer.generation) == (target, generation)
                assert answer.changed == (points[number % 2].when == "before")
                client.waits_for(lambda seen: seen == (200, target))  # noqa: B023
                log = dies.process.log.read_text()
                assert log.count("killed") == number + 1, "it died, and nothing else did it"
    assert {status for status, _ in client.answers} == {200}
    # What is promised where nothing else keeps the machine busy.
    assert max(took) < scale(30, 10), took
    report("activation", **{f"{store}_kills": kills, f"{store}_seconds_at_most": max(took)})
