"""Each check of the second half of the chain, seen to fail on the real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from platform_assets import model_definitions
from platform_assets.export.assets import ONNX_ARTIFACT
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.gateway import GatewayResource
from platform_assets.serving.promotion import GATES
from platform_assets.shared_definitions import resources
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.chain import op_config
from tests.support.full_platform import TOKEN, Platform
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.models import IRIS, other_species
from tests.support.onnx_models import telltale
from tests.support.servers import LOOPBACK, free_port, wait_until


def production_run(platform: Platform) -> str:
    version = platform.production()
    assert version is not None
    run_id = platform.resources["mlflow"].version(DEFAULT_MODEL, version).run_id
    assert isinstance(run_id, str)
    return run_id


@pytest.fixture(scope="module")
def settled(shared_platform: Platform) -> Platform:
    """A platform whose newest materializations are all of the version in production."""
    if not shared_platform.settled():
        shared_platform.promote()
    return shared_platform


@contextmanager
def replaced(platform: Platform, artifact: str, data: bytes) -> Iterator[None]:
    """Other bytes for an artifact of the production version's run, for a while."""
    mlflow, run_id = platform.resources["mlflow"], production_run(platform)
    kept = mlflow.artifact_bytes(run_id, artifact)
    mlflow.log_artifact_bytes(run_id, artifact, data)
    try:
        yield
    finally:
        mlflow.log_artifact_bytes(run_id, artifact, kept)


@pytest.fixture
def other_replica(settled: Platform, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway with a routing record of its own: a replica that does not follow."""
    env = {"GATEWAY_CONTROL_TOKEN": TOKEN}
    with run_gateway(tmp_path, settled.triton.http_url, env=env) as gateway:
        yield gateway


def test_the_checks_that_gate_the_switch_are_blocking_and_all_known_to_it() -> None:
    graph = dg.Definitions.merge(model_definitions.build(IRIS), resources()).resolve_asset_graph()
    blocking = {
        key.name
        for key in graph.asset_check_keys
        if key.asset_key == dg.AssetKey(IRIS.key("triton_serving_state"))
        and graph.get(key).blocking
    }
    assert blocking == set(GATES)


@pytest.mark.parametrize(
    ("asset", "check"),
    [
        ("onnx_model", "onnx_parity"),
        ("triton_serving_state", "triton_parity"),
        ("gateway_reload", "predict_parity"),
    ],
)
@pytest.mark.parametrize("what", ["labels", "probabilities"])
def test_every_parity_check_fails_on_answers_that_differ(
    settled: Platform, asset: str, check: str, what: str
) -> None:
    assert settled.check(asset, check).passed
    trained = settled.resources["mlflow"].evaluation_set(production_run(settled))
    labels, probabilities = trained.labels, trained.probabilities
    if what == "labels":
        labels = labels.copy()
        labels[-1:] = other_species(labels[-1:])
    else:
        probabilities = probabilities.copy()
        probabilities[-1, 0] += 1e-3
    other = write_evaluation(replace(trained, labels=labels, probabilities=probabilities))
    with replaced(settled, EVALUATION_ARTIFACT, other):
        evaluation = settled.check(asset, check)
    assert not evaluation.passed
    assert evaluation.blocking
    rows = evaluation.metadata["differing_rows"].value
    assert rows == str(len(trained.labels) - 1)


@pytest.mark.parametrize("graph", [telltale(1), b"not a graph"])
def test_a_graph_replaced_in_mlflow_is_found_and_never_packaged(
    settled: Platform, graph: bytes
) -> None:
    with replaced(settled, ONNX_ARTIFACT, graph):
        check = settled.check("onnx_model", "onnx_parity")
        assert not check.passed
        assert "not run" in str(check.description)
        outcome = settled.run("triton_model_entry")
    assert "was not packaged" in outcome.failures["triton_model_entry"]
    assert settled.check("onnx_model", "onnx_parity").passed


def test_an_entry_changed_on_disk_fails_its_check(settled: Platform) -> None:
    version = settled.production()
    assert version is not None
    path = settled.repository.path(DEFAULT_MODEL, version) / "model.onnx"
    kept = path.read_bytes()
    try:
        for changed in (kept[:-1], b"no graph"):
            path.write_bytes(changed)
            assert not settled.check("triton_model_entry", "entry_digest").passed
    finally:
        path.write_bytes(kept)
    assert settled.check("triton_model_entry", "entry_digest").passed


def test_a_version_over_its_latency_budget_is_blocked(settled: Platform) -> None:
    generation = settled.generation()
    hasty = settled.of(gates=replace(settled.spec.gates, latency_ms=0.01))
    outcome = hasty.run("triton_serving_state", "gateway_reload")
    slow = outcome.checks["triton_serving_state.triton_latency"]
    assert not slow.passed
    assert slow.blocking
    assert "over the budget of 0.01 ms" in (slow.description or "")
    assert "gateway_reload" not in outcome.values
    assert settled.generation() == generation
    # With the budget of the model file the same version passes.
    assert settled.run("triton_serving_state").success


def test_a_replica_on_another_version_fails_the_check_after_the_switch(
    settled: Platform, other_replica: RunningGateway
) -> None:
    assert settled.check("gateway_reload", "gateway_effective").passed
    both = GatewayResource(urls=f"{settled.gateway.url},{other_replica.url}", control_token=TOKEN)
    assert not settled.check("gateway_reload", "gateway_effective", gateway=both).passed


def test_the_switch_is_not_done_before_every_replica_follows(
    settled: Platform, other_replica: RunningGateway
) -> None:
    both = GatewayResource(urls=f"{settled.gateway.url},{other_replica.url}", control_token=TOKEN)
    config = op_config("gateway_reload", {"convergence_timeout_s": 1.0})
    outcome = settled.run("gateway_reload", run_config=config, gateway=both)
    message = outcome.failures["gateway_reload"]
    assert other_replica.url in message
    assert settled.gateway.url not in message.replace(other_replica.url, "")
    assert "gateway_reload" not in outcome.values


def test_the_switch_waits_for_replicas_that_no_address_names(
    settled: Platform,
) -> None:
    # It shares the routing record but reaches no Triton, and GATEWAY_URLS does not name it.
    nowhere = f"http://{LOOPBACK}:{free_port()}"
    env = {"GATEWAY_CONTROL_TOKEN": TOKEN}
    config = op_config("gateway_reload", {"convergence_timeout_s": 1.0})
    with run_gateway(settled.home, nowhere, env=env, name="unnamed") as unnamed:
        unnamed_id = unnamed.models()["replica"]["id"]
        wait_until(lambda: len(settled.gateway.models()["replicas"]) == 2, 5, "it is listed")
        outcome = settled.run("gateway_reload", run_config=config)
        assert f"{unnamed_id} (not ready: variant A" in outcome.failures["gateway_reload"]
        assert "gateway_reload" not in outcome.values
    outcome = settled.run("gateway_reload", run_config=config)
    assert outcome.success, outcome.failures


def test_a_wrong_token_moves_nothing(settled: Platform) -> None:
    generation = settled.generation()
    stranger = GatewayResource(urls=settled.gateway.url, control_token="guessed")
    outcome = settled.run("gateway_reload", gateway=stranger)
    assert "401" in outcome.failures["gateway_reload"]
    assert "guessed" not in outcome.failures["gateway_reload"]
    assert settled.generation() == generation
