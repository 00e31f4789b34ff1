"""When a replica takes traffic, and what hundreds of idle models cost it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
from redis import Redis

from serving_gateway.contract import (
    DEFAULT_MODEL,
    DType,
    Feature,
    Mode,
    RoutingRecord,
    Signature,
    Slot,
)
from tests.benchmarks.environment import start_instant_triton
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway, serve_versions
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import RunningRedis, run_triton, wait_until

OTHER = "other_model"
MODELS = 50
IRIS = Signature(tuple(Feature(f"f{i}", DType.FP32) for i in range(4)), packed_input="features")


def ready(gateway: RunningGateway, path: str = "/ready") -> tuple[int, Any]:
    answer = gateway.client.get(path)
    return answer.status_code, answer.json()


def predicts(gateway: RunningGateway, model: str) -> int:
    return gateway.client.post(f"/models/{model}/predict", json={"data": [ROW]}).status_code


def test_a_model_that_is_down_answers_503_for_itself_alone(
    tmp_path: Path, repository: Path
) -> None:
    write_entry(repository, OTHER, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        # Without the default model, and without any model.
        status, body = ready(gateway)
        assert (status, body["status"], body["reasons"]) == (200, "ready", [])
        assert "no version was ever loaded" in body["models"][DEFAULT_MODEL][0]
        reload = f"/models/{OTHER}/variant/A/reload"
        assert gateway.client.post(reload, json={"version": 1, "run_id": "r"}).status_code == 200
        status, body = ready(gateway)
        assert (status, set(body["models"])) == (200, {DEFAULT_MODEL})
        assert gateway.client.get("/v2/health/ready").status_code == 200
        # Version 1 is retired behind the gateway's back.
        serve_versions(triton, 2, model_name=OTHER)
        path = f"/models/{OTHER}/ready"
        wait_until(lambda: ready(gateway, path)[0] == 503, 5, "the model is not ready")
        assert predicts(gateway, OTHER) == 503
        status, body = ready(gateway)
        assert (status, body["reasons"]) == (200, [])
        assert "version 1" in body["models"][OTHER][0]
        assert ready(gateway, path)[1]["reasons"] == body["models"][OTHER]


def fill(redis: RunningRedis, models: int) -> list[str]:
    names = [DEFAULT_MODEL, *(f"model_{number}" for number in range(2, models + 1))]
    slots = {a: Slot(v, f"run-{v}", "caller", Mode.PINNED, IRIS) for a, v in (("A", 1), ("B", 2))}
    with Redis.from_url(redis.url) as client:
        for name in names:
            record = RoutingRecord(name, 2, slots, changed_at="2026-01-01T00:00:00.000Z")
            client.set(f"gateway:{{{name}}}:routing", msgspec.json.encode(record))
        client.sadd("gateway:models", *names)
    return names


def test_a_replica_is_ready_once_all_models_can_answer_and_then_costs_redis_little(
    tmp_path: Path, redis: RunningRedis
) -> None:
    names = fill(redis, MODELS)
    with start_instant_triton(tmp_path) as triton, Redis.from_url(redis.url) as client:
        env = {"GATEWAY_REDIS_URL": redis.url}
        before: Any = client.info("stats")
        with run_gateway(tmp_path, triton, env=env) as gateway:
            wait_until(lambda: ready(gateway)[0] == 200, 20, "ready")
            assert [predicts(gateway, name) for name in names] == [200] * MODELS
            after: Any = client.info("stats")
            started = after["total_commands_processed"] - before["total_commands_processed"]
            assert started < 2 * MODELS + 100, "records are read in bulk"
            time.sleep(2)
            first: Any = client.info()
            probes = requests(triton)
            at = time.monotonic()
            time.sleep(5)
            seconds = time.monotonic() - at
            last: Any = client.info()
            assert last["connected_clients"] - 1 <= 4
            commands = last["total_commands_processed"] - first["total_commands_processed"]
            assert commands / seconds < 25
            assert (requests(triton) - probes) / seconds < 60


def requests(triton: str) -> int:
    return int(httpx.get(f"{triton}/requests", trust_env=False).json()["requests"])


def test_an_idle_version_that_waits_for_its_probe_is_not_stale(
    tmp_path: Path, redis: RunningRedis
) -> None:
    """More idle versions than the budget of probes reaches within the staleness limit."""
    names = fill(redis, 200)
    with start_instant_triton(tmp_path) as triton:
        env = {"GATEWAY_REDIS_URL": redis.url, "GATEWAY_STALENESS_SECONDS": "1"}
        with run_gateway(tmp_path, triton, env=env) as gateway:
            wait_until(lambda: ready(gateway)[0] == 200, 20, "ready")
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                assert ready(gateway)[1]["models"] == {}
                time.sleep(0.2)
            page = gateway.client.get(f"/models/{names[-1]}").json()
            assert page["effective"]["A"]["ready"]
