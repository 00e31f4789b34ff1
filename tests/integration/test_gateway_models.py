"""Several models behind one gateway: each with its own record, variants, traffic and paths."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http

from serving_gateway.contract import (
    DEFAULT_MODEL,
    DType,
    Feature,
    Mode,
    RoutingRecord,
    Signature,
    Slot,
)
from serving_gateway.replication.file_store import FileStore
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway, run_routed_gateway
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import RunningRedis, RunningTriton, run_triton, wait_until

OTHER = "other_model"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A Triton with two models; their labels tell which version of which model answered."""
    home = tmp_path_factory.mktemp("models")
    write_entry(home / "repository", DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    write_entry(home / "repository", OTHER, {7: telltale(7), 8: telltale(8)})
    with run_triton(home / "repository", home) as running:
        yield running


def call(gateway: RunningGateway, method: str, path: str, **options: Any) -> httpx.Response:
    return gateway.client.request(method, f"/models/{OTHER}{path}", **options)


def host_other(gateway: RunningGateway, version: int = 7, alias: str = "A") -> None:
    body = {"version": version, "run_id": f"other-{version}"}
    answer = call(gateway, "POST", f"/variant/{alias}/reload", json=body)
    assert answer.status_code == 200, answer.text


def other_version(gateway: RunningGateway) -> int | None:
    answer = call(gateway, "POST", "/predict", json={"data": [ROW]})
    if answer.status_code != 200:
        return None
    found = answer.json()
    assert found["model_name"] == OTHER
    assert found["predictions"] == [found["version"]]
    return int(found["version"])


def answers(gateway: RunningGateway, version: int) -> Callable[[], bool]:
    return lambda: other_version(gateway) == version


@pytest.fixture(scope="module")
def triton_url(triton: RunningTriton) -> str:
    return triton.http_url


@pytest.fixture
def gateway(fresh_gateway: RunningGateway) -> RunningGateway:
    return fresh_gateway


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, triton_url: str) -> Iterator[RunningGateway]:
    """A gateway that hosts the default model alone, and stays so."""
    home = tmp_path_factory.mktemp("bare")
    with run_routed_gateway(home, triton_url, {}, {"A": 1}) as running:
        yield running


def test_a_model_is_hosted_from_its_first_reload_on(gateway: RunningGateway) -> None:
    assert call(gateway, "GET", "/ready").json()["code"] == "unknown_model"
    answer = call(gateway, "POST", "/predict", json={"data": [ROW]})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
    assert "hosts best_model" in answer.json()["error"]
    host_other(gateway)
    assert other_version(gateway) == 7
    assert gateway.predict().json()["version"] == 1
    assert gateway.models()["models"] == [DEFAULT_MODEL, OTHER]
    page = call(gateway, "GET", "").json()
    assert page["ssot"]["model_name"] == OTHER
    assert page["ssot"]["served_versions"] == [7, 8]
    assert page["effective"]["A"]["run_id"] == "other-7"
    assert call(gateway, "GET", "/health").json()["model_name"] == OTHER
    assert call(gateway, "GET", "/ready").status_code == 200


def test_the_traffic_of_one_model_is_not_that_of_another(gateway: RunningGateway) -> None:
    host_other(gateway)
    host_other(gateway, 8, "B")
    policy = {"strategy": "split", "percent": 100}
    assert call(gateway, "PUT", "/traffic", json=policy).status_code == 200
    body = {"data": [ROW], "client_id": "anybody"}
    assert call(gateway, "POST", "/predict", json=body).json()["version"] == 8
    assert gateway.client.post("/predict", json=body).json()["version"] == 1
    assert gateway.models()["routing"]["traffic"]["strategy"] == "off"
    host_other(gateway, 8)
    answer = call(gateway, "POST", "/variant/A/rollback")
    assert (answer.status_code, answer.json()["version"]) == (200, 7)
    assert gateway.predict().json()["version"] == 1


def test_metrics_and_errors_name_their_model(gateway: RunningGateway) -> None:
    host_other(gateway)
    for _ in range(3):
        other_version(gateway)
    found = gateway.metric("gateway_predictions_total", model=OTHER, outcome="answered")
    assert found == 3
    assert gateway.metric("gateway_predictions_total", model=DEFAULT_MODEL, version="1") == 0
    assert gateway.metric("gateway_ready", model=OTHER) == 1
    path = "/models/{model}/predict"
    assert gateway.metric("http_requests_total", path=path, status="200") == 3
    answer = call(gateway, "POST", "/variant/A/reload", json={"version": 9, "run_id": "x"})
    assert answer.status_code == 409
    assert answer.json()["still_served"] == {"A": 7}
    assert call(gateway, "POST", "/predict", json={"data": [[1.0]]}).status_code == 422


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("1model", 422, "bad_model_name"),
        ("..", 422, "bad_model_name"),
        ("mod\u0435l", 422, "bad_model_name"),  # a Cyrillic letter
        ("nowhere", 503, "nothing_ready"),
    ],
)
def test_a_reload_that_is_refused_hosts_nothing(
    bare: RunningGateway, name: str, status: int, code: str
) -> None:
    from urllib.parse import quote

    path = f"/models/{quote(name).replace('.', '%2E')}/variant/A/reload"
    answer = bare.client.post(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert bare.models()["models"] == [DEFAULT_MODEL]
    assert f'model="{name}"' not in bare.client.get("/metrics").text
    (presence,) = (bare.state_dir / "replicas").iterdir()
    assert list(json.loads(presence.read_text())["models"]) == [DEFAULT_MODEL]
    assert sorted(path.name for path in bare.state_dir.glob("routing-*.json")) == [
        f"routing-{DEFAULT_MODEL}.json"
    ]


def test_only_so_many_models_are_hosted(tmp_path: Path, triton: RunningTriton) -> None:
    with run_gateway(tmp_path, triton.http_url, env={"GATEWAY_MAX_MODELS": "1"}) as gateway:
        answer = call(gateway, "POST", "/variant/A/reload", json={"version": 7, "run_id": "x"})
        assert (answer.status_code, answer.json()["code"]) == (409, "too_many_models")
        assert gateway.models()["models"] == [DEFAULT_MODEL]


def test_the_protocol_speaks_of_every_model(gateway: RunningGateway) -> None:
    host_other(gateway)
    with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        for name, version in ((DEFAULT_MODEL, 1), (OTHER, 7)):
            assert client.is_model_ready(name)
            assert client.get_model_metadata(name)["versions"] == [str(version)]
            tensor = triton_http.InferInput("features", [1, 4], "FP32")
            tensor.set_data_from_numpy(np.array([ROW], dtype=np.float32))
            result = client.infer(name, [tensor])
            assert result.as_numpy("label").ravel().tolist() == [version]


def test_replicas_find_each_others_models_and_a_restart_brings_them_back(
    tmp_path: Path, triton: RunningTriton, redis: RunningRedis
) -> None:
    env = {"GATEWAY_REDIS_URL": redis.url}
    with contextlib.ExitStack() as stack:
        one, two = (
            stack.enter_context(run_gateway(tmp_path / name, triton.http_url, env=env, name=name))
            for name in ("one", "two")
        )
        host_other(one)
        wait_until(answers(two, 7), 10, "the other replica to host the model")
        host_other(two, 8)
        wait_until(answers(one, 8), 10, "the first replica to follow")
        wait_until(lambda: call(one, "GET", "").json()["in_sync"], 10, "both to say so")
        assert len(call(one, "GET", "").json()["replicas"]) == 2
        two.process.restart()
        assert other_version(two) == 8
        # Without the store a replica resumes all models from its snapshots.
        wait_until(lambda: kept(two), 5, "the snapshot to be kept")
        redis.process.kill()
        two.process.restart()
        assert other_version(two) == 8


def kept(gateway: RunningGateway) -> bool:
    path = gateway.state_dir / f"snapshot-{OTHER}.json"
    return path.exists() and '"generation": 2' in path.read_text()


def test_variant_b_may_live_on_another_triton_under_another_name(
    tmp_path: Path, triton: RunningTriton
) -> None:
    name = "candidate_model"
    write_entry(tmp_path / "repository", name, {5: telltale(5)})
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(run_triton(tmp_path / "repository", tmp_path / "second"))
        env = {"GATEWAY_SHADOW_TRITON_URL": second.http_url, "GATEWAY_SHADOW_MODEL_NAME": name}
        gateway = stack.enter_context(run_gateway(tmp_path, triton.http_url, env=env))
        gateway.routed(1)
        gateway.routed(5, alias="B")
        page = gateway.models()
        assert page["ssot"]["served_versions"] == [1, 2]
        assert page["ssot"]["shadow_served_version"] == 5
        assert page["effective"]["B"]["triton_url"] == second.http_url
        tensor = triton_http.InferInput("features", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array([ROW], dtype=np.float32))
        with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
            # Asked for by its name it answers, whatever its share of the traffic.
            for asked, label in ((name, 5), (DEFAULT_MODEL, 1)):
                found = client.infer(asked, [tensor])
                assert found.as_numpy("label").ravel().tolist() == [label]
        assert gateway.traffic("mirror", 100).status_code == 200
        assert gateway.predict().json()["version"] == 1
        wait_until(lambda: shadow_requests(gateway) == 1, 5, "the copy to be compared")
        assert gateway.traffic("split", 100).status_code == 200
        found = gateway.predict(client_id="c").json()
        assert (found["model_name"], found["version"], found["predictions"]) == (name, 5, [5])
        with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
            assert client.get_model_metadata(name)["versions"] == ["5"]
        second.kill()
        found = gateway.predict(client_id="c").json()
        assert (found["version"], found["variant"]) == (1, "A")
        assert "variant B could not answer" in found["fallback"]
        assert gateway.ready()


def shadow_requests(gateway: RunningGateway) -> int:
    return int(gateway.client.get("/shadow").json()["requests"])


def test_a_replica_that_does_not_host_the_model_is_not_in_sync(
    tmp_path: Path, triton: RunningTriton, redis: RunningRedis
) -> None:
    env = {"GATEWAY_REDIS_URL": redis.url}
    with (
        run_gateway(tmp_path / "one", triton.http_url, env=env, name="one") as one,
        run_gateway(
            tmp_path / "two", triton.http_url, env={**env, "GATEWAY_MAX_MODELS": "1"}, name="two"
        ) as two,
    ):
        one.routed(1)
        wait_until(lambda: len(one.models()["replicas"]) == 2, 5, "both replicas to be listed")
        host_other(one)
        page = call(one, "GET", "").json()
        assert not page["in_sync"]
        late = [replica for replica in page["replicas"] if not replica["ready"]]
        assert [replica["reasons"] for replica in late] == [
            ["this replica does not host the model yet"]
        ]
        assert one.models()["in_sync"]
        wait_until(lambda: code(two) == "model_not_open", 5, "the other replica to know of it")
        assert call(two, "POST", "/predict", json={"data": [ROW]}).status_code == 503


def code(gateway: RunningGateway) -> str:
    return str(call(gateway, "POST", "/predict", json={"data": [ROW]}).json().get("code"))


def test_a_record_that_cannot_be_served_does_not_keep_others_out(
    tmp_path: Path, triton: RunningTriton
) -> None:
    mixed = Signature(
        features=(Feature("a", DType.FP32), Feature("b", DType.BYTES)), packed_input="features"
    )
    for name, signature in ((DEFAULT_MODEL, None), (OTHER, mixed)):
        slot = Slot(1, "run", "registry", Mode.SSOT, signature)
        record = RoutingRecord(model_name=name, generation=1, variants={"A": slot})
        store = FileStore(tmp_path / "gateway")
        asyncio.run(store.replace(RoutingRecord(model_name=name), record))
    with run_gateway(tmp_path, triton.http_url) as gateway:
        gateway.wait_ready()
        assert gateway.predict().json()["version"] == 1
        reasons = call(gateway, "GET", "/ready").json()["reasons"]
        assert "cannot be used" in reasons[0]
        assert call(gateway, "POST", "/predict", json={"data": [ROW]}).status_code == 503
        host_other(gateway)
        assert other_version(gateway) == 7
