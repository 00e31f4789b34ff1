"""What a reload does, and above all what it refuses to do (I1), on a real Triton and MLflow."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from platform_assets.resources.mlflow import MlflowResource
from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    DEFAULT_MODEL,
    ONNX_DIGEST_TAG,
    DType,
    Feature,
    Signature,
)
from tests.support.gateway_harness import (
    ROW,
    RunningGateway,
    run_gateway,
    serve_versions,
)
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import (
    OwnMlflow,
    RunningMlflow,
    RunningRedis,
    RunningTriton,
    free_port,
    run_triton,
    wait_until,
)

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
SIGNATURE = Signature(
    features=tuple(Feature(name, DType.FP32) for name in NAMES),
    packed_input="features",
    classes=(0, 1, 2),
)


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    return {}


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def at_generation(gateway: RunningGateway, generation: int) -> bool:
    found: int = gateway.models()["routing"]["generation"]
    return found == generation


LINEAGE = {
    ONNX_DIGEST_TAG: "of the graph",
    DATA_FINGERPRINT_TAG: "of the rows",
    CODE_VERSION_TAG: "of the code",
    DAGSTER_RUN_TAG: "of the run",
}


def register(
    mlflow: RunningMlflow,
    name: str,
    *,
    signature: Signature | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[str]:
    """Register versions 1 and 2 over MLflow's own API; returns their runs."""
    api = f"{mlflow.url}/api/2.0/mlflow"

    def call(path: str, **body: Any) -> Any:
        answer = httpx.post(f"{api}/{path}", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    experiment = call("experiments/create", name=name)["experiment_id"]
    call("registered-models/create", name=name)
    runs = []
    for _ in range(2):
        run = call("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        given = dict(tags or {})
        if signature is not None:
            given |= MlflowResource(tracking_uri=mlflow.url).record_signature(run, signature)
        pairs = [{"key": key, "value": value} for key, value in given.items()]
        call("model-versions/create", name=name, source="x:/none", run_id=run, tags=pairs)
        runs.append(run)
    return runs


def test_a_named_version_becomes_effective_and_answers(fresh_gateway: RunningGateway) -> None:
    gateway = fresh_gateway
    answer = gateway.reload(version=2, run_id="run-2", reason="first")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "success",
        "variant": "A",
        "version": 2,
        "run_id": "run-2",
        "run_id_source": "caller",
        "mode": "pinned",
        "generation": 1,
        "previous_version": None,
        "changed": True,
        "other_ready_versions": [1],
    }
    predicted = gateway.predict().json()
    assert predicted["predictions"] == [2]
    assert (predicted["version"], predicted["run_id"], predicted["variant"]) == (2, "run-2", "A")
    models = gateway.models()
    assert models["ssot"]["served_versions"] == [1, 2]
    assert models["ssot"]["prod_served_version"] == 2
    assert models["effective"]["A"]["mode"] == "pinned"
    assert models["active"]["A"] == {"model_name": DEFAULT_MODEL, "version": 2, "run_id": "run-2"}
    assert models["routing"]["reason"] == "first"
    assert gateway.client.get("/health").json()["loaded_aliases"] == ["A"]


def test_the_same_reload_again_changes_nothing(gateway: RunningGateway) -> None:
    gateway.routed(1)
    generation = gateway.models()["routing"]["generation"]
    again = gateway.reload(version=1, run_id="run-1").json()
    assert (again["changed"], again["generation"]) == (False, generation)


def test_without_a_body_several_ready_versions_are_listed_and_never_taken(
    fresh_gateway: RunningGateway,
) -> None:
    gateway = fresh_gateway
    refused = gateway.reload()
    assert error(refused) == (409, "ambiguous_versions")
    assert "1, 2" in refused.json()["error"]
    gateway.routed(1)
    confirmed = gateway.reload().json()
    assert (confirmed["version"], confirmed["changed"]) == (1, False)
    assert confirmed["other_ready_versions"] == [2]


@pytest.mark.parametrize(
    ("alias", "body", "expected"),
    [
        ("C", {}, (404, "unknown_variant")),
        ("a", {"version": 1, "run_id": "x"}, (404, "unknown_variant")),
        ("A", {"version": 7, "run_id": "x"}, (409, "version_not_ready")),
        ("A", {"version": 0}, (422, "out_of_range")),
        ("A", {"version": "two"}, (422, "wrong_type")),
        ("A", {"versoin": 2}, (422, "unknown_field")),
        ("A", {"version": 2, "mode": "loose"}, (422, "wrong_type")),
        ("A", {"version": 2}, (503, "run_id_unknown")),
    ],
)
def test_a_refused_reload_leaves_everything_as_it_was(
    gateway: RunningGateway, alias: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    gateway.routed(1)
    before = gateway.models()["routing"]
    answer = gateway.reload(alias, **body)
    assert error(answer) == expected
    assert answer.json()["still_served"] == {"A": 1}
    assert gateway.models()["routing"] == before
    assert gateway.predict().json()["predictions"] == [1]


def test_automation_does_not_move_a_pinned_variant(fresh_gateway: RunningGateway) -> None:
    gateway = fresh_gateway
    gateway.routed(1)
    pipeline: dict[str, Any] = {"version": 2, "run_id": "run-2", "mode": "ssot"}
    assert error(gateway.reload(**pipeline)) == (409, "variant_pinned")
    assert gateway.predict().json()["version"] == 1
    moved = gateway.reload(**pipeline, unpin=True).json()
    assert (moved["version"], moved["mode"], moved["previous_version"]) == (2, "ssot", 1)


def test_a_rollback_goes_to_the_previous_version_and_pins_it(fresh_gateway: RunningGateway) -> None:
    gateway = fresh_gateway
    assert error(gateway.client.post("/variant/A/rollback")) == (409, "nothing_to_roll_back_to")
    gateway.reload(version=1, run_id="run-1", mode="ssot")
    gateway.reload(version=2, run_id="run-2", mode="ssot")
    back = gateway.client.post("/variant/A/rollback", json={"reason": "worse"}).json()
    assert (back["version"], back["run_id"], back["mode"]) == (1, "run-1", "pinned")
    assert gateway.predict().json()["predictions"] == [1]
    again = gateway.client.post("/variant/A/rollback")
    assert error(again) == (409, "nothing_to_roll_back_to")


@pytest.mark.parametrize("on_redis", [False, True], ids=["file", "redis"])
def test_fifty_concurrent_changes_by_two_processes_lose_none(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis, on_redis: bool
) -> None:
    env = {"GATEWAY_REDIS_URL": redis.url} if on_redis else {}
    with (
        run_gateway(tmp_path, shared_triton.http_url, env=env, name="one") as one,
        run_gateway(tmp_path, shared_triton.http_url, env=env, name="two") as two,
    ):
        one.routed(1)

        def change(number: int) -> httpx.Response:
            gateway = (one, two)[number % 2]
            if number % 5 == 0:
                return gateway.reload(version=1 + number % 2, run_id=f"run-{1 + number % 2}")
            return gateway.client.put("/traffic", json={"strategy": "off", "percent": number})

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(change, range(50)))
        assert {a.status_code for a in answers} <= {200, 409}, [a.text for a in answers]
        changed = [
            a.json()["generation"] for a in answers if a.status_code == 200 and a.json()["changed"]
        ]
        assert sorted(changed) == list(range(2, 2 + len(changed)))
        assert len(changed) > 25
        for gateway in (one, two):
            wait_until(
                partial(at_generation, gateway, max(changed)),
                2,
                "both processes follow",
            )


def test_a_change_for_another_generation_is_refused(gateway: RunningGateway) -> None:
    gateway.routed(1)
    generation = gateway.models()["routing"]["generation"]
    wrong = gateway.client.put(
        "/traffic", json={"strategy": "off", "percent": 5, "expected_generation": generation + 6}
    )
    assert error(wrong) == (409, "generation_conflict")
    right = gateway.client.put(
        "/traffic", json={"strategy": "off", "percent": 5, "expected_generation": generation}
    )
    assert right.json()["generation"] == generation + 1


def test_the_registry_names_the_run_and_the_features(
    tmp_path: Path, repository: Path, shared_mlflow: RunningMlflow
) -> None:
    name = "registered_model"
    runs = register(shared_mlflow, name, signature=SIGNATURE)
    write_entry(repository, name, {1: telltale(1), 2: telltale(2), 3: telltale(3)}, serve=[1, 3])
    env = {
        "GATEWAY_MLFLOW_URL": shared_mlflow.url,
        "GATEWAY_MODEL_NAME": name,
        "GATEWAY_MLFLOW_SECONDS": "30",
    }
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
    ):
        answer = gateway.reload(version=1).json()
        assert (answer["run_id"], answer["run_id_source"]) == (runs[0], "registry")
        named = {"instances": [dict(zip(reversed(NAMES), reversed(ROW), strict=True))]}
        by_name = gateway.client.post("/predict", json=named).json()
        assert by_name["predictions"] == [1]
        assert by_name["probabilities"] == gateway.predict().json()["probabilities"]
        # Registered, packaged, not served: the registry alone never makes it effective.
        assert error(gateway.reload(version=2)) == (409, "version_not_ready")
        assert error(gateway.reload(version=9)) == (404, "unknown_version")
        unregistered = gateway.reload(version=3)
        assert error(unregistered) == (409, "not_registered"), unregistered.text
        assert error(gateway.reload(version=1, run_id="x")) == (409, "run_id_contradiction")
        assert gateway.models()["effective"]["A"]["version"] == 1


def test_a_reload_works_without_mlflow_by_what_is_on_record(
    tmp_path: Path, repository: Path, mlflow_link: OwnMlflow
) -> None:
    name = "known_model"
    runs = register(mlflow_link, name, tags=LINEAGE)
    write_entry(repository, name, {1: telltale(1), 2: telltale(2)})
    env = {
        "GATEWAY_MLFLOW_URL": mlflow_link.url,
        "GATEWAY_MLFLOW_SECONDS": "5",
        "GATEWAY_MODEL_NAME": name,
    }
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
    ):
        assert gateway.reload(version=1).json()["run_id_source"] == "registry"
        effective = gateway.models()["effective"]["A"]
        digests = [effective[name] for name in ("onnx_sha256", "data_fingerprint")]
        assert digests == ["of the graph", "of the rows"]
        assert effective["code_version"] == "of the code"
        assert effective["dagster_run_id"] == "of the run"
        mlflow_link.process.signal(signal.SIGSTOP)
        try:
            # I9: what is effective goes on, and what is known can be confirmed.
            assert gateway.predict().status_code == 200
            assert gateway.ready()
            again = gateway.reload().json()
            assert (again["run_id"], again["run_id_source"]) == (runs[0], "registry")
            assert error(gateway.reload(version=2)) == (503, "run_id_unknown")
            named = gateway.reload(version=2, run_id=runs[1]).json()
            assert (named["run_id"], named["run_id_source"]) == (runs[1], "caller")
        finally:
            mlflow_link.process.signal(signal.SIGCONT)


def test_nothing_ready_and_no_triton_have_different_errors(
    tmp_path: Path, repository: Path
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)}, serve=[1])
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
        run_gateway(tmp_path, triton.http_url, env={"GATEWAY_MODEL_NAME": "x"}, name="x") as other,
        run_gateway(tmp_path / "lost", f"http://127.0.0.1:{free_port()}", name="lost") as lost,
    ):
        only = gateway.reload(run_id="run-1").json()
        assert (only["version"], only["mode"]) == (1, "ssot")
        assert error(other.reload()) == (503, "nothing_ready")
        assert error(lost.reload()) == (503, "triton_unavailable")
        assert lost.reload().headers["retry-after"] == "1"
        assert error(lost.predict()) == (503, "no_effective_version")
        assert lost.models()["ssot"]["triton_reachable"] is False


def test_a_version_that_is_ready_but_cannot_infer_is_refused(
    tmp_path: Path, repository: Path, shared_mlflow: RunningMlflow
) -> None:
    name = "wrongly_registered"
    wrong = msgspec.structs.replace(SIGNATURE, packed_input="no_such_input")
    register(shared_mlflow, name, signature=wrong)
    write_entry(repository, name, {1: telltale(1)})
    env = {
        "GATEWAY_MLFLOW_URL": shared_mlflow.url,
        "GATEWAY_MODEL_NAME": name,
        "GATEWAY_MLFLOW_SECONDS": "30",
    }
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
    ):
        assert error(gateway.reload()) == (409, "warm_up_failed")
        assert gateway.models()["routing"]["generation"] == 0


def test_a_version_retired_in_triton_cannot_be_reloaded_nor_rolled_back_to(
    tmp_path: Path, repository: Path
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        gateway.routed(2)
        serve_versions(triton, 2)
        assert error(gateway.client.post("/variant/A/rollback")) == (409, "version_not_ready")
        assert error(gateway.reload(version=1, run_id="run-1")) == (409, "version_not_ready")
        assert gateway.predict().json()["version"] == 2
