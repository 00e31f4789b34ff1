"""From raw data to production, and everything that must keep a version out of it.

Each training takes seconds: a test leaves the version that it packaged to the tests after it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from pyarrow import parquet

from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import RepositoryError
from platform_assets.scoring.records import BatchPredictions
from platform_assets.serving.loading import persisted_versions
from platform_assets.serving.promotion import GATES
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.chain import op_config
from tests.support.full_platform import SERVING, TO_ENTRY, Platform
from tests.support.models import QUICK_IRIS, other_species
from tests.support.servers import LOOPBACK, free_port

TRAINED_TO_ENTRY = TO_ENTRY[2:]
"""Over the features that are there."""
BLOCKING = {
    "features.ranges",
    "online_features.online_equals_offline",
    "trained_model.metric_floor",
    "onnx_model.onnx_parity",
    "triton_model_entry.entry_digest",
    *(f"triton_serving_state.{gate}" for gate in GATES),
    "gateway_reload.gateway_effective",
    "gateway_reload.predict_parity",
}


@pytest.fixture
def candidate(platform: Platform) -> int:
    """A version that is packaged and not loaded: what another test left so, or a new one."""
    newest = int(platform.resources["mlflow"].versions(DEFAULT_MODEL)[-1].version)
    if newest not in platform.ready() and is_packaged(platform, newest):
        return newest
    outcome = platform.run(*TRAINED_TO_ENTRY)
    assert outcome.success, outcome.failures
    version = outcome.values["triton_model_entry"].version
    assert version not in platform.ready()
    return int(version)


def is_packaged(platform: Platform, version: int) -> bool:
    try:
        platform.repository.verify(DEFAULT_MODEL, version)
    except RepositoryError:
        return False
    return True


def test_raw_data_becomes_a_proved_production_version(shared_platform: Platform) -> None:
    shared = shared_platform
    before = shared.production()
    outcome = shared.run(run_config=op_config("gateway_reload", {"unpin": True}))

    assert outcome.success, outcome.failures
    failed = [name for name, check in outcome.checks.items() if not check.passed]
    assert failed == []
    blocking = {name for name, check in outcome.checks.items() if check.blocking}
    assert blocking == BLOCKING
    assert outcome.metadata["triton_serving_state"]["warm_up"].value == "16 rows"
    version = outcome.values["gateway_reload"].version
    assert version == shared.resources["mlflow"].versions(DEFAULT_MODEL)[-1].version > (before or 0)
    assert shared.answering_version() == shared.production() == version
    assert shared.resources["mlflow"].alias_version(DEFAULT_MODEL, "production") == version
    assert persisted_versions(shared.repository, DEFAULT_MODEL) == shared.ready()
    proof = shared.home / "proof" / "best_model" / "latest"
    reload = json.loads((proof / "reload_variant_A.json").read_text())
    assert (reload["status"], reload["version"]) == ("success", version)
    index = (proof / "triton_ready_and_repo_index.txt").read_text()
    assert f'{{"name":"best_model","version":"{version}","state":"READY"}}' in index
    assert "holds: True" in (proof / "prediction_parity.txt").read_text()
    assert "http_requests_total" in (proof / "gateway_health_models_metrics.txt").read_text()
    page = (proof / "proof.html").read_text()
    assert f"<h1>best_model version {version}</h1>" in page
    assert page.count("<li class='ok'>") == 2, "both halves of being in production"
    metric = outcome.metadata["serving_proof"]["metric"].value
    assert metric.startswith("accuracy ")
    assert "; floor 0.9" in metric
    assert metric in page


def test_a_retried_switch_changes_nothing(platform: Platform) -> None:
    generation = platform.generation()
    outcome = platform.run(*SERVING)
    assert outcome.success, outcome.failures
    assert not outcome.values["gateway_reload"].answer.changed
    assert platform.generation() == generation


def test_the_proof_of_each_run_is_kept(platform: Platform) -> None:
    folder = platform.home / "proof" / "best_model"
    first = Path(platform.run("serving_proof").values["serving_proof"])
    second = Path(platform.run("serving_proof").values["serving_proof"])
    assert first != second
    assert first.is_dir()
    assert (folder / "latest").resolve() == second.resolve()


def test_batch_predictions_of_all_entities_equal_what_the_gateway_answers(
    platform: Platform,
) -> None:
    outcome = platform.run("batch_predictions")

    assert outcome.success, outcome.failures
    made: BatchPredictions = outcome.values["batch_predictions"]
    found = parquet.read_table(made.path)
    assert found.num_rows == made.rows == len(found["entity_id"].unique()) == 150
    assert made.unscored == found["prediction"].null_count == 0
    assert found["prediction_version"].unique().to_pylist() == [platform.production()]
    run = platform.resources["mlflow"].version(DEFAULT_MODEL, platform.production()).run_id
    assert found["prediction_run_id"].unique().to_pylist() == [run]
    shares = found.select([f"probability_{one}" for one in QUICK_IRIS.target.classes])
    best = np.argmax(shares.to_pandas().to_numpy(), axis=1)
    assert found["prediction"].to_pylist() == [QUICK_IRIS.target.classes[one] for one in best]
    check = outcome.checks["batch_predictions.equals_online"]
    assert check.passed
    assert check.metadata["rows_compared"].value == check.metadata["rows_identical"].value == 150


def test_batch_predictions_of_a_file_say_which_rows_have_none_and_why(
    platform: Platform, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    header = "petal_width,petal_length,sepal_width,sepal_length,note"
    rows.write_text(f"{header}\n0.2,1.4,3.5,5.1,a\n0.2,,3.5,5.1,b\n2.5,6.0,3.3,6.3,c\n")
    config = op_config("batch_predictions", {"source": str(rows)})

    outcome = platform.run("batch_predictions", run_config=config)

    assert outcome.success, outcome.failures
    found = parquet.read_table(outcome.values["batch_predictions"].path)
    columns = ["prediction_row", "prediction", "prediction_reason"]
    assert found.select(columns).to_pylist() == [
        dict(zip(columns, row, strict=True))
        for row in (
            (1, "setosa", None),
            (2, None, "petal_length is missing"),
            (3, "virginica", None),
        )
    ]
    assert outcome.checks["batch_predictions.equals_online"].metadata["rows_compared"].value == 2
    assert outcome.metadata["batch_predictions"]["rows_not_scored"].value == 1
    before = sorted(Path(outcome.values["batch_predictions"].path).parent.iterdir())
    rows.write_text(f"{header}\n0.2,1.4,3.5,5.1,a\n0.2,wide,3.5,5.1,b\n")
    refused = platform.run("batch_predictions", run_config=config).failures["batch_predictions"]
    assert "row 2 (line 3), petal_length: 'wide' is not a number" in refused
    assert "No file was written" in refused
    assert sorted(before[0].parent.iterdir()) == before


def test_registered_and_trained_of_different_runs_are_not_mixed(platform: Platform) -> None:
    assert platform.run("trained_model").success
    outcome = platform.run("onnx_model")
    assert "materialize registered_model" in outcome.failures["onnx_model"]


def test_packaging_without_mlflow_fails_and_a_retry_continues(platform: Platform) -> None:
    assert platform.run("trained_model", "registered_model").success
    nobody = MlflowResource(tracking_uri=f"http://{LOOPBACK}:{free_port()}")
    outcome = platform.run("onnx_model", "triton_model_entry", mlflow=nobody)
    assert "was not recorded" in outcome.failures["onnx_model"]
    assert "bring MLflow back" in outcome.failures["onnx_model"]
    assert platform.run("onnx_model", "triton_model_entry").success


def test_a_model_damaged_between_entry_and_load_never_reaches_production(
    platform: Platform, candidate: int
) -> None:
    before = platform.production()
    config = platform.repository.persisted_config(DEFAULT_MODEL)
    path = platform.repository.path(DEFAULT_MODEL, candidate) / "model.onnx"
    intact = path.read_bytes()
    path.write_bytes(intact[:-10])

    outcome = platform.run(*SERVING)

    ready = outcome.checks["triton_serving_state.triton_ready"]
    assert not ready.passed
    assert "changed or truncated" in (ready.description or "")
    assert not outcome.success
    assert "gateway_reload" not in outcome.values
    assert platform.answering_version() == platform.production() == before
    assert platform.repository.persisted_config(DEFAULT_MODEL) == config
    # Launched alone, the switch asks for itself.
    alone = platform.run("gateway_reload")
    assert f"does not report version {candidate}" in alone.failures["gateway_reload"]
    assert platform.answering_version() == before
    platform.triton.restart()
    platform.gateway.wait_ready()
    assert platform.answering_version() == before
    path.write_bytes(intact)


def test_a_version_that_answers_otherwise_than_trained_never_reaches_production(
    platform: Platform, candidate: int
) -> None:
    before = platform.production()
    mlflow = platform.resources["mlflow"]
    run_id = mlflow.version(DEFAULT_MODEL, candidate).run_id
    evaluation = mlflow.evaluation_set(run_id)
    other = write_evaluation(replace(evaluation, labels=other_species(evaluation.labels)))
    mlflow.log_artifact_bytes(run_id, EVALUATION_ARTIFACT, other)

    outcome = platform.run(*SERVING)

    assert outcome.checks["triton_serving_state.triton_ready"].passed
    assert not outcome.checks["triton_serving_state.triton_parity"].passed
    assert "gateway_reload" not in outcome.values
    assert candidate in platform.ready()
    assert platform.answering_version() == before
    # The version is READY, so only the gates' own record can stop a run of the switch alone.
    alone = platform.run("gateway_reload")
    assert "triton_parity: failed" in alone.failures["gateway_reload"]
    assert platform.answering_version() == before


def test_a_version_whose_gates_never_ran_is_not_switched_to(
    platform: Platform, candidate: int
) -> None:
    before = platform.production()
    assert platform.run("triton_serving_state", checks=False).success
    alone = platform.run("gateway_reload")
    assert "did not run on this load" in alone.failures["gateway_reload"]
    assert candidate in platform.ready()
    assert platform.answering_version() == before


def test_a_run_that_is_only_queued_does_not_hide_the_verdicts(platform: Platform) -> None:
    """Dagster plans the checks of a run when it is created, long before they are evaluated."""
    assert platform.run("triton_serving_state").success
    planned = platform.job("best_model_serving")
    platform.instance.create_run_for_job(planned)
    latest = platform.instance.get_latest_asset_check_evaluation_record(
        dg.AssetCheckKey(dg.AssetKey(platform.spec.key("triton_serving_state")), GATES[0])
    )
    assert latest is not None
    assert latest.status.value == "PLANNED"
    assert platform.run("gateway_reload").success


def test_the_switch_without_triton_fails_clearly_and_changes_nothing(platform: Platform) -> None:
    generation, before = platform.generation(), platform.production()
    platform.triton.kill()
    try:
        outcome = platform.run("gateway_reload")
    finally:
        platform.triton.restart()
    message = outcome.failures["gateway_reload"]
    assert "roduction was not switched" in message
    assert "bring Triton back" in message
    assert platform.generation() == generation
    platform.gateway.wait_ready()
    assert platform.answering_version() == before


def test_a_version_directory_with_other_content_is_never_overwritten(platform: Platform) -> None:
    outcome = platform.run(*TRAINED_TO_ENTRY[:-1])
    version = outcome.values["onnx_model"].registered.version
    folder = platform.repository.path(DEFAULT_MODEL, version)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"somebody else's")
    refused = platform.run("triton_model_entry")
    assert "exists already and holds something else" in refused.failures["triton_model_entry"]
    assert [entry.name for entry in folder.iterdir()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == b"somebody else's"
    shutil.rmtree(folder)
    assert platform.run("triton_model_entry").success


def test_loading_without_triton_fails_and_a_retry_continues(
    platform: Platform, candidate: int
) -> None:
    platform.triton.kill()
    try:
        outcome = platform.run(*SERVING)
    finally:
        platform.triton.restart()
    assert f"ersion {candidate} was not loaded" in outcome.failures["triton_serving_state"]
    assert "Nothing changed in serving" in outcome.failures["triton_serving_state"]
    platform.gateway.wait_ready()
    assert platform.run(*SERVING).success
    assert platform.answering_version() == candidate


def test_the_switch_without_a_gateway_fails_and_a_retry_continues(
    platform: Platform, candidate: int
) -> None:
    platform.gateway.process.kill()
    try:
        outcome = platform.run(*SERVING)
    finally:
        platform.gateway.process.restart()
    assert not outcome.checks["triton_serving_state.no_regression"].passed
    assert "gateway_reload" not in outcome.values
    # Some gates ask the gateway what is in production, so they failed closed.
    assert platform.run(*SERVING).success
    assert platform.answering_version() == candidate


def test_launch_options_reach_the_configuration_on_disk(platform: Platform, candidate: int) -> None:
    config = op_config(
        "triton_model_entry",
        {"enable_dynamic_batching": True, "triton_instance_group_count": 2},
    )
    assert platform.run("triton_model_entry", run_config=config).success
    assert platform.run(*SERVING).success
    assert platform.answering_version() == candidate
    text = platform.repository.persisted_config(DEFAULT_MODEL) or ""
    assert "dynamic_batching" in text
    assert "count: 2" in text


def test_the_former_production_stays_ready_and_the_one_before_is_retired(
    platform: Platform,
) -> None:
    while len(platform.ready()) < 2 or not platform.settled():
        platform.promote()
    former = platform.production()
    versions = [former, platform.promote().values["gateway_reload"].version]
    assert platform.ready() == tuple(versions)
    assert persisted_versions(platform.repository, DEFAULT_MODEL) == tuple(versions)
    rolled_back = platform.gateway.client.post("/variant/A/rollback")
    assert rolled_back.status_code == 200, rolled_back.text
    assert platform.answering_version() == versions[0]
    # A rollback pins; the pipeline says so instead of moving production silently.
    refused = platform.run("gateway_reload")
    assert "pinned" in refused.failures["gateway_reload"]
    assert "with unpin: true" in refused.failures["gateway_reload"]
    assert platform.answering_version() == versions[0]
    config = op_config("gateway_reload", {"unpin": True})
    assert platform.run("gateway_reload", run_config=config).success
    assert platform.answering_version() == versions[1]
