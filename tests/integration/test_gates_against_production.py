"""The gates that hold a candidate against production: each one seen to block, and to let pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from platform_assets.model_spec import CandidateSpec
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.gateway import GatewayResource
from serving_gateway.contract import DEFAULT_MODEL, MODEL_FILE
from tests.chain import Outcome
from tests.full_platform import SERVING, TOKEN, Platform
from tests.servers import LOOPBACK, free_port

WEAK = CandidateSpec("decision_tree", grid={"max_depth": (1,)})
GATE = "triton_serving_state"


@pytest.fixture(scope="module")
def promoted(shared_platform: Platform) -> Platform:
    """A platform with a version in production; tests leave candidates behind in it."""
    shared_platform.promote()
    return shared_platform


@pytest.fixture
def settled(promoted: Platform) -> Platform:
    """The same, its newest materializations all of the version in production."""
    if not promoted.settled():
        promoted.promote()
    return promoted


@contextmanager
def production_stays(platform: Platform) -> Iterator[None]:
    """Fails the test unless the same version answers by the same generation afterwards."""
    generation, version = platform.generation(), platform.production()
    yield
    assert platform.generation() == generation
    assert platform.answering_version() == version


def blocked_by(outcome: Outcome) -> list[str]:
    assert "gateway_reload" not in outcome.values
    return sorted(
        name.partition(".")[2]
        for name, check in outcome.checks.items()
        if not check.passed and name.startswith(GATE)
    )


def test_a_candidate_that_is_worse_than_production_is_blocked(promoted: Platform) -> None:
    gates = replace(promoted.spec.gates, metric_floor=0.3)
    weak = promoted.of(candidates=(WEAK,), gates=gates)
    with production_stays(promoted):
        outcome = weak.run()
        assert blocked_by(outcome) == ["no_regression"]
    gate = outcome.checks[f"{GATE}.no_regression"]
    assert "worse by" in (gate.description or "")
    metadata: dict[str, Any] = {name: value.value for name, value in gate.metadata.items()}
    assert metadata["production_version"] == promoted.production()
    assert metadata["gain_low"] <= metadata["gain"] <= metadata["gain_high"]
    assert metadata["gain"] < -0.2
    assert metadata["comparison"].startswith("![")
    # A run of the switch alone is refused too: the verdict is about the load, not the run.
    with production_stays(promoted):
        alone = promoted.run("gateway_reload")
        assert "no_regression: failed" in alone.failures["gateway_reload"]


def test_a_loss_that_the_model_file_tolerates_passes_unless_it_is_certain(
    promoted: Platform,
) -> None:
    gates = replace(promoted.spec.gates, metric_floor=0.3, regression_tolerance=0.9)
    weak = promoted.of(candidates=(WEAK,), gates=gates)
    with production_stays(promoted):
        outcome = weak.run()
        assert blocked_by(outcome) == ["no_regression"]
    assert "worse with confidence" in (outcome.checks[f"{GATE}.no_regression"].description or "")


def test_production_is_judged_by_its_own_order_of_the_classes(promoted: Platform) -> None:
    """Its probabilities, read in the candidate's order, would make it look as bad as can be."""
    spec = promoted.spec
    turned = promoted.of(
        candidates=(WEAK,),
        target=replace(spec.target, classes=(2, 1, 0)),
        evaluation=replace(spec.evaluation, metric="log_loss"),
        gates=replace(spec.gates, metric_floor=5.0, allow_breaking=True),
    )
    with production_stays(promoted):
        outcome = turned.run()
        assert blocked_by(outcome) == ["no_regression"]
    gate = outcome.checks[f"{GATE}.no_regression"]
    assert float(str(gate.metadata["production_log_loss"].value)) < 0.5
    breaking = outcome.checks[f"{GATE}.schema_compatible"].metadata["breaking_changes"].value
    assert "another order" in str(breaking)


def test_an_answer_below_the_floor_is_blocked_whatever_training_said(settled: Platform) -> None:
    mlflow, run_id = settled.resources["mlflow"], production_run(settled)
    kept = mlflow.artifact_bytes(run_id, EVALUATION_ARTIFACT)
    evaluation = mlflow.evaluation_set(run_id)
    wrong = write_evaluation(
        evaluation.features,
        (evaluation.label_true + 1) % 3,
        evaluation.labels,
        evaluation.probabilities,
        evaluation.groups,
    )
    mlflow.log_artifact_bytes(run_id, EVALUATION_ARTIFACT, wrong)
    try:
        gate = settled.check(GATE, "no_regression")
    finally:
        mlflow.log_artifact_bytes(run_id, EVALUATION_ARTIFACT, kept)
    assert not gate.passed
    assert "does not reach the floor 0.9" in (gate.description or "")
    assert settled.check(GATE, "no_regression").passed


def test_when_nobody_knows_what_is_in_production_nothing_moves(settled: Platform) -> None:
    nobody = GatewayResource(urls=f"http://{LOOPBACK}:{free_port()}", control_token=TOKEN)
    for name in ("no_regression", "schema_compatible"):
        gate = settled.check(GATE, name, gateway=nobody)
        assert not gate.passed
        assert gate.blocking
        assert "could not be asked what is in production" in (gate.description or "")


def test_a_removed_feature_is_blocked_until_the_file_says_that_it_is_meant(
    settled: Platform,
) -> None:
    narrow = settled.of(features=settled.spec.features[:3])
    with production_stays(settled):
        outcome = narrow.run()
        assert blocked_by(outcome) == ["no_regression", "schema_compatible"]
    said = outcome.checks[f"{GATE}.schema_compatible"].description or ""
    assert "petal_width was removed" in said

    meant = narrow.of(gates=replace(narrow.spec.gates, allow_breaking=True))
    before = settled.production()
    outcome = meant.run()
    assert outcome.success, outcome.failures
    assert settled.production() == outcome.values["gateway_reload"].version != before
    assert settled.gateway.predict([5.1, 3.5, 1.4]).status_code == 200
    refused = settled.gateway.predict([5.1, 3.5, 1.4, 0.2])
    assert refused.status_code == 422
    assert refused.json()["field"] == "data[0]"
    # The version before reads four, serves beside it, and can be gone back to at once.
    rolled_back = settled.gateway.client.post("/variant/A/rollback")
    assert rolled_back.status_code == 200, rolled_back.text
    assert settled.gateway.predict([5.1, 3.5, 1.4, 0.2]).json()["version"] == before
    # And the way back to the wider file is a breaking change again.
    wide = settled.of(gates=replace(settled.spec.gates, allow_breaking=True))
    wide.promote()


def test_a_feature_store_with_another_contract_is_blocked(settled: Platform) -> None:
    from feast import FeatureService, FeatureStore

    feast, spec = settled.resources["feast"], settled.spec
    store = FeatureStore(repo_path=str(feast.home), fs_yaml_file=feast.render())
    view = store.get_feature_view(spec.feature_view)
    feast.apply([FeatureService(name=spec.feature_service, features=[view[["sepal_length"]]])])
    try:
        with production_stays(settled):
            outcome = settled.run(*SERVING)
            assert blocked_by(outcome) == ["feature_contract"]
    finally:
        assert settled.run("online_features").success
    gate = outcome.checks[f"{GATE}.feature_contract"]
    assert gate.description == "another contract: feature store"
    assert settled.check(GATE, "feature_contract").passed


def test_a_graph_with_another_contract_is_blocked(settled: Platform) -> None:
    """The pipeline would not write one; somebody may have changed the file."""
    version = settled.production()
    assert version is not None
    path = settled.repository.path(DEFAULT_MODEL, version) / MODEL_FILE
    kept = path.read_bytes()
    try:
        path.write_bytes(kept.replace(b"petal_width", b"petal_depth"))
        gate = settled.check(GATE, "feature_contract")
    finally:
        path.write_bytes(kept)
    assert not gate.passed
    assert "the graph records the feature contract" in (gate.description or "")
    assert settled.check(GATE, "feature_contract").passed


def production_run(platform: Platform) -> str:
    version = platform.production()
    assert version is not None
    return str(platform.resources["mlflow"].version(DEFAULT_MODEL, version).run_id)
