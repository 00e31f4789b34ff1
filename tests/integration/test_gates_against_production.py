"""The gates that hold a candidate against production: each one seen to block, and to let pass."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from platform_assets.model_spec import CandidateSpec, FeatureSpec, ReplayLimits, WhenInconclusive
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow_client import open_client
from platform_assets.resources.source import SourceResource
from platform_assets.serving import regression
from platform_assets.serving.ledger import best_version
from platform_assets.serving.loaded_version import LoadedVersion
from platform_assets.serving.regression import NotComparableError
from serving_gateway.contract import (
    DEFAULT_MODEL,
    LOG_ID,
    LOG_PREDICTION,
    LOG_ROW,
    LOG_TIME,
    LOG_VERSION,
    MODEL_FILE,
)
from tests.support.chain import Outcome, op_config
from tests.support.full_platform import SERVING, TOKEN, Platform
from tests.support.models import other_species
from tests.support.servers import LOOPBACK, free_port

WEAK = CandidateSpec("decision_tree", grid={"max_depth": (1,)})
SIMILAR = CandidateSpec("linear_discriminant")
GATE = "triton_serving_state"
ERROR = dg.AssetCheckSeverity.ERROR
TRAINING = ("trained_model", "registered_model")
TO_LOADED = ("onnx_model", "triton_model_entry", "triton_serving_state")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A candidate that several tests ask about: its model file, and what became of it."""

    platform: Platform
    outcome: Outcome

    @property
    def version(self) -> int:
        """Its number."""
        return int(self.outcome.values["registered_model"].version)


@pytest.fixture(scope="module")
def promoted(shared_platform: Platform) -> Platform:
    """A platform with a version in production; tests leave candidates behind in it."""
    if not shared_platform.settled():
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
        if not check.passed and check.severity is ERROR and name.startswith(GATE)
    )


def test_an_answer_below_the_floor_is_blocked_although_training_passed(settled: Platform) -> None:
    mlflow, run_id = settled.resources["mlflow"], production_run(settled)
    kept = mlflow.artifact_bytes(run_id, EVALUATION_ARTIFACT)
    evaluation = mlflow.evaluation_set(run_id)
    wrong = write_evaluation(replace(evaluation, label_true=other_species(evaluation.label_true)))
    mlflow.log_artifact_bytes(run_id, EVALUATION_ARTIFACT, wrong)
    try:
        gate = settled.check(GATE, "no_regression")
    finally:
        mlflow.log_artifact_bytes(run_id, EVALUATION_ARTIFACT, kept)
    assert not gate.passed
    assert "is below the floor 0.9" in (gate.description or "")
    assert settled.check(GATE, "no_regression").passed


def test_nothing_moves_while_production_is_unknown(settled: Platform) -> None:
    nobody = GatewayResource(urls=f"http://{LOOPBACK}:{free_port()}", control_token=TOKEN)
    for name in ("no_regression", "schema_compatible"):
        gate = settled.check(GATE, name, gateway=nobody)
        assert not gate.passed
        assert gate.blocking
        assert "could not be asked what is in production" in (gate.description or "")


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


@pytest.fixture(scope="module")
def similar(promoted: Platform) -> Loaded:
    """A candidate as good as production, by a margin that thirty rows cannot show.

    More of its rows are held out than of production's. One of its tests puts it in production.
    """
    if not promoted.settled():
        promoted.promote()
    spec = promoted.spec
    other = promoted.of(
        candidates=(SIMILAR,),
        evaluation=replace(spec.evaluation, fraction=0.5),
        gates=replace(spec.gates, regression_tolerance=1e-4),
    )
    return Loaded(other, other.run(*TRAINING, *TO_LOADED))


def test_rows_that_are_too_few_warn_or_block_as_the_model_file_says(similar: Loaded) -> None:
    gate = similar.outcome.checks[f"{GATE}.no_regression"]
    assert not gate.passed
    assert gate.severity is dg.AssetCheckSeverity.WARN
    assert "inconclusive at" in (gate.description or "")
    assert "entities would show equal versions equal" in (gate.description or "")
    other = similar.platform
    strict = other.of(gates=replace(other.spec.gates, when_inconclusive=WhenInconclusive.BLOCK))
    blocked = strict.check(GATE, "no_regression")
    assert not blocked.passed
    assert blocked.severity is dg.AssetCheckSeverity.ERROR
    with production_stays(other):
        assert "no_regression: failed" in strict.run("gateway_reload").failures["gateway_reload"]


def test_production_is_compared_on_rows_that_it_was_not_trained_on(similar: Loaded) -> None:
    platform, outcome = similar.platform, similar.outcome
    metadata = outcome.checks[f"{GATE}.no_regression"].metadata
    mlflow = platform.resources["mlflow"]
    held = mlflow.evaluation_set(production_run(platform)).groups
    own = mlflow.evaluation_set(outcome.values["trained_model"].run_id).groups
    assert metadata["compared_rows"].value == np.isin(own, held).sum()
    assert 0 < np.isin(own, held).sum() < len(own)
    assert metadata["compared_on"].value == "rows that neither version was trained on"


def test_a_version_that_was_deleted_in_mlflow_is_compared_all_the_same(similar: Loaded) -> None:
    platform = similar.platform
    version, client = platform.production(), open_client(platform.mlflow.url)
    client.delete_run(production_run(platform))
    client.delete_model_version(DEFAULT_MODEL, str(version))
    for name in ("no_regression", "schema_compatible"):
        gate = platform.check(GATE, name)
        # The warning alone does not keep the version out.
        assert gate.severity is dg.AssetCheckSeverity.WARN or gate.passed, gate.description
        assert gate.metadata["production_version"].value == version
    outcome = platform.run("gateway_reload")
    assert outcome.success, outcome.failures
    assert platform.production() == similar.version


def test_the_same_graph_needs_no_comparison(similar: Loaded) -> None:
    platform = similar.platform
    if platform.production() != similar.version:
        assert platform.run("gateway_reload").success
    outcome = platform.run(*TRAINING, *TO_LOADED)
    gate = outcome.checks[f"{GATE}.no_regression"]
    assert gate.passed
    assert gate.description == f"its graph is that of version {similar.version}, byte for byte"
    assert platform.run("gateway_reload").success


@pytest.fixture(scope="module")
def weak(promoted: Platform) -> Loaded:
    """A candidate that is worse than production, and was kept out for that."""
    gates = replace(promoted.spec.gates, metric_floor=0.3)
    weak = promoted.of(candidates=(WEAK,), gates=gates)
    with production_stays(promoted):
        return Loaded(weak, weak.run(*TRAINING, *TO_LOADED, "gateway_reload"))


def test_a_candidate_that_is_worse_than_production_is_blocked(
    promoted: Platform, weak: Loaded
) -> None:
    assert blocked_by(weak.outcome) == ["no_regression"]
    gate = weak.outcome.checks[f"{GATE}.no_regression"]
    assert "worse than version" in (gate.description or "")
    metadata: dict[str, Any] = {name: value.value for name, value in gate.metadata.items()}
    assert metadata["production_version"] == promoted.production()
    assert metadata["gain_low"] <= metadata["gain"] <= metadata["gain_high"]
    assert metadata["gain"] < -0.2
    assert metadata["comparison"].startswith("![")
    # A run of the switch alone is refused too: the verdict is about the load, not the run.
    with production_stays(promoted):
        alone = promoted.run("gateway_reload")
        assert "no_regression: failed" in alone.failures["gateway_reload"]


def test_a_loss_that_the_model_file_tolerates_passes_however_certain_it_is(weak: Loaded) -> None:
    gate = tolerating(weak.platform).check(GATE, "no_regression")
    assert gate.passed, gate.description
    assert gate.metadata["verdict"].value == "non-inferior"
    assert float(str(gate.metadata["gain_high"].value)) < 0


def test_losses_do_not_add_up_against_the_best_version_ever(
    promoted: Platform, weak: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best version is not READY any more: its graph on disk answers."""
    best = best_version(promoted.instance, promoted.spec)
    serving = replace(weak.platform.spec.serving, keep_versions=2)
    lenient = tolerating(weak.platform.of(serving=serving))
    assert lenient.check(GATE, "no_regression").passed
    only_production = op_config("gateway_reload", {"retention": 1})
    outcome = lenient.run("gateway_reload", run_config=only_production)
    assert outcome.success, outcome.failures
    assert outcome.metadata["gateway_reload"]["best_version"].value == best
    assert best not in promoted.ready()
    assert best in promoted.repository.versions(promoted.spec.model_name)
    # The weak model again, judged as another graph of the same quality would be.
    monkeypatch.setattr(LoadedVersion, "has_graph_of", lambda self, version: False)
    outcome = weak.platform.run(*TRAINING, *TO_LOADED, "gateway_reload")
    gate = outcome.checks[f"{GATE}.no_regression"]
    assert gate.metadata["verdict"].value != "worse", "it is not worse than production"
    assert f"worse than version {best}" in (gate.description or "")
    assert blocked_by(outcome) == ["no_regression"]
    # A best version that cannot be asked is named, and stays the one to compare with.
    compared = regression._compare_with

    def all_but_best(*given: Any) -> Any:
        if given[2] == best:
            raise NotComparableError("it does not answer")
        return compared(*given)

    monkeypatch.setattr(regression, "_compare_with", all_but_best)
    gate = weak.platform.check(GATE, "no_regression")
    assert f"version {best}, the best one, was not compared" in (gate.description or "")
    assert gate.metadata["best_version"].value == best
    promoted.promote()


def tolerating(platform: Platform) -> Platform:
    """The same model file, but for what it lets pass."""
    return platform.of(gates=replace(platform.spec.gates, regression_tolerance=0.9))


def test_production_is_judged_by_its_own_order_of_the_classes(promoted: Platform) -> None:
    """Its probabilities, read in the candidate's order, would make it look as bad as can be."""
    spec = promoted.spec
    turned = promoted.of(
        candidates=(WEAK,),
        target=replace(spec.target, classes=spec.target.classes[::-1]),
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


def test_a_removed_feature_is_blocked_until_the_file_says_that_it_is_meant(
    promoted: Platform,
) -> None:
    narrow = promoted.of(features=promoted.spec.features[:3])
    with production_stays(promoted):
        outcome = narrow.run()
        assert blocked_by(outcome) == ["no_regression", "schema_compatible"]
    said = outcome.checks[f"{GATE}.schema_compatible"].description or ""
    assert "petal_width was removed" in said

    meant = narrow.of(gates=replace(narrow.spec.gates, allow_breaking=True))
    before = promoted.production()
    for name in ("no_regression", "schema_compatible"):
        assert meant.check(GATE, name).passed
    outcome = meant.run("gateway_reload")
    assert outcome.success, outcome.failures
    assert promoted.production() == outcome.values["gateway_reload"].version != before
    assert promoted.gateway.predict([5.1, 3.5, 1.4]).status_code == 200
    refused = promoted.gateway.predict([5.1, 3.5, 1.4, 0.2])
    assert refused.status_code == 422
    assert refused.json()["field"] == "data[0]"
    # The version before reads four, serves beside it, and can be gone back to at once.
    rolled_back = promoted.gateway.client.post("/variant/A/rollback")
    assert rolled_back.status_code == 200, rolled_back.text
    assert promoted.gateway.predict([5.1, 3.5, 1.4, 0.2]).json()["version"] == before
    # And the way back to the wider file is a breaking change again.
    wide = promoted.of(gates=replace(promoted.spec.gates, allow_breaking=True))
    wide.promote()


def test_a_candidate_whose_source_changed_its_unit_is_blocked_by_logged_requests(
    settled: Platform,
) -> None:
    """Its held-out rows changed with the source; what clients send did not."""
    rows = pd.read_csv(settled.home / "iris.csv")
    names = [*settled.spec.feature_names]
    in_millimetres = settled.home / "iris-in-millimetres.csv"
    rows.assign(**{name: 10 * rows[name] for name in names}).to_csv(in_millimetres, index=False)
    boundless = tuple(FeatureSpec(one.name) for one in settled.spec.features)
    changed = settled.of(features=boundless)
    source = SourceResource(variables={"SOURCE_PATH": str(in_millimetres)})
    with logged(settled, rows[names]):
        # An honest retraining passes.
        honest = settled.of(candidates=(SIMILAR,))
        gate = honest.run(*TRAINING, *TO_LOADED).checks[f"{GATE}.replay"]
        assert gate.passed, gate.description
        assert gate.description == f"{len(rows)} logged rows were replayed"
        with production_stays(settled):
            outcome = changed.run(source=source)
            assert blocked_by(outcome) == ["replay"]
        gate = outcome.checks[f"{GATE}.replay"]
        said = gate.description or ""
        assert "disagreement is" in said
        assert "score_shift of the probability of" in said
        assert gate.metadata["rows"].value == gate.metadata["rows_compared"].value == len(rows)
        assert gate.metadata["logged_answers_not_given_now"].value == f"0 of {len(rows)}"
        # A model file may mean it.
        lenient = ReplayLimits(disagreement=1.0, score_shift=100.0)
        meant = changed.of(gates=replace(changed.spec.gates, replay=lenient))
        assert meant.check(GATE, "replay").passed


@contextmanager
def logged(platform: Platform, features: pd.DataFrame) -> Iterator[None]:
    """What a gateway logs of these rows, as production answers them, for a while."""
    version, now = platform.production(), pd.Timestamp.now("UTC")
    data = features.to_numpy().tolist()
    answered = platform.gateway.client.post("/predict", json={"data": data}).json()["predictions"]
    log = features.astype("float32").assign(
        **{LOG_TIME: now, LOG_VERSION: version, LOG_PREDICTION: answered, LOG_ROW: 0}
    )
    log[LOG_ID] = [f"request-{row}" for row in range(len(log))]
    folder = platform.home / "samples" / DEFAULT_MODEL
    (folder / f"date={now:%Y-%m-%d}").mkdir(parents=True)
    log.to_parquet(folder / f"date={now:%Y-%m-%d}" / "replica-000001.parquet")
    try:
        yield
    finally:
        shutil.rmtree(folder)


def production_run(platform: Platform) -> str:
    version = platform.production()
    assert version is not None
    return str(platform.resources["mlflow"].version(DEFAULT_MODEL, version).run_id)
