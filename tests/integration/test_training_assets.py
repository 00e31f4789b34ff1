"""From source to registered version on the real Feast and MLflow: gates, retries, records."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platform_assets.features.spec import IRIS, ModelSpec
from platform_assets.resources.mlflow_client import open_client
from platform_assets.resources.records import RegisteredVersion
from platform_assets.training import candidates
from platform_assets.training.checks import training_checks
from platform_assets.training.records import TrainedModel
from serving_gateway.contract import DATA_FINGERPRINT_TAG
from tests.chain import Chain, new_chain
from tests.servers import RunningMlflow, run_mlflow

STILL_SERVED = "production still is what GET /models of the gateway says"


def _spec(**changes: Any) -> ModelSpec:
    """Iris under a name that no other test uses; the feature definitions stay the same."""
    return dataclasses.replace(IRIS, model_name=f"model_{uuid.uuid4().hex[:8]}", **changes)


@pytest.fixture
def chain(tmp_path: Path, shared_mlflow: RunningMlflow) -> Chain:
    return new_chain(tmp_path, mlflow_url=shared_mlflow.url, spec=_spec())


def _runs(chain: Chain) -> list[Any]:
    client = open_client(chain.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(chain.spec.model_name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _swap_labels(chain: Chain) -> None:
    """Give half of the flowers the label of another species: nothing learns that well."""
    header, *rows = chain.source.read_text().splitlines()
    changed = []
    for row in rows:
        entity, rest = row.split(",", 1)
        cells = rest.split(",")
        if int(entity) % 2:
            cells[-1] = str((int(cells[-1]) + 1 + int(entity) // 2 % 2) % 3)
        changed.append(",".join([entity, *cells]))
    chain.source.write_text("\n".join([header, *changed]) + "\n")


def test_the_chain_ends_in_a_registered_version_with_its_evidence(chain: Chain) -> None:
    outcome = chain.run()
    assert outcome.failures == {}
    assert len(outcome.checks) == 6
    assert all(check.passed and check.blocking for check in outcome.checks.values())
    trained: TrainedModel = outcome.values["trained_model"]
    registered: RegisteredVersion = outcome.values["registered_model"]
    data = outcome.values["features"]
    assert registered == RegisteredVersion(
        chain.spec.model_name, 1, trained.run_id, data.fingerprint, chain.spec.signature
    )
    assert chain.mlflow.version(chain.spec.model_name, 1) == registered

    parent = next(run for run in _runs(chain) if run.info.run_id == trained.run_id)
    children = [run for run in _runs(chain) if run is not parent and "candidate" in run.data.params]
    children = [run for run in children if run.info.run_id != trained.run_id]
    assert {run.data.params["candidate"] for run in children} == set(IRIS.training.candidates)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {trained.run_id}
    assert all("cv_accuracy" in run.data.metrics for run in children)
    assert {run.info.status for run in _runs(chain)} == {"FINISHED"}
    assert parent.data.metrics["accuracy"] == trained.metrics["accuracy"]
    assert parent.data.tags[DATA_FINGERPRINT_TAG] == data.fingerprint
    best = max(children, key=lambda run: run.data.metrics["cv_accuracy"])
    assert parent.data.params["candidate"] == best.data.params["candidate"]

    evaluation = chain.mlflow.evaluation_set(trained.run_id)
    assert tuple(evaluation.features.columns) == IRIS.feature_names
    values = evaluation.features.to_numpy()
    assert values.dtype == np.float32
    assert values.shape == (90, 4)
    assert np.array_equal(trained.estimator.predict(values), evaluation.labels)
    assert evaluation.probabilities is not None
    assert np.array_equal(trained.estimator.predict_proba(values), evaluation.probabilities)
    assert trained.estimator.classes_.tolist() == list(trained.signature.classes)

    metadata = outcome.metadata["trained_model"]
    assert metadata["mlflow_run"].url == chain.mlflow.run_url(trained.run_id)
    assert metadata["evaluation"].md_str.startswith("![")
    assert len(metadata["candidates"].records) == len(IRIS.training.candidates)
    picture = chain.mlflow.artifact_bytes(trained.run_id, "evaluation/evaluation.png")
    assert picture.startswith(b"\x89PNG")


def test_registering_again_is_the_same_version_and_training_again_is_the_next(
    chain: Chain,
) -> None:
    first = chain.run()
    again = chain.run("registered_model")
    assert again.values["registered_model"] == first.values["registered_model"]
    second = chain.run("trained_model", "registered_model")
    assert second.values["registered_model"].version == 2
    one, two = first.values["trained_model"], second.values["trained_model"]
    assert one.metrics == two.metrics, "same data, same model"
    assert one.run_id != two.run_id


def test_a_model_below_the_floor_is_not_registered(chain: Chain) -> None:
    _swap_labels(chain)
    outcome = chain.run()
    gate = outcome.checks["trained_model.metric_floor"]
    assert not gate.passed
    assert float(gate.metadata["margin"].value) < 0  # type: ignore[arg-type] # a float here
    assert "below the floor 0.9" in (gate.description or "")
    assert "registered_model" not in outcome.values
    assert chain.mlflow.version_of_run(chain.spec.model_name, gate.metadata["run_id"].value) is None  # type: ignore[arg-type] # text here

    lowered = {"ops": {"trained_model_metric_floor": {"config": {"accuracy_floor": 0.1}}}}
    assert chain.run(run_config=lowered).values["registered_model"].version == 1


def test_a_version_of_another_run_fails_the_check(chain: Chain) -> None:
    first = chain.run().values
    second = chain.run("trained_model", "registered_model").values
    check = training_checks(chain.spec)[1]
    result: Any = check(
        registered_model=first["registered_model"],
        trained_model=second["trained_model"],
        mlflow=chain.mlflow,
    )
    assert not result.passed
    assert first["trained_model"].run_id in result.description
    assert second["trained_model"].run_id in result.description


def test_a_candidate_that_cannot_be_fitted_leaves_failed_runs_and_a_message(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setitem(
        candidates.CANDIDATES, "random_forest", lambda _: LogisticRegression(penalty="no such")
    )
    outcome = chain.run()
    assert list(outcome.failures) == ["trained_model"]
    assert "LogisticRegression cannot be fitted" in outcome.failures["trained_model"]
    assert STILL_SERVED in outcome.failures["trained_model"]
    status = {run.info.run_name: run.info.status for run in _runs(chain)}
    assert status[f"train {chain.spec.model_name}"] == "FAILED"
    assert status["random_forest"] == "FAILED"
    assert status["logistic_regression"] == "FINISHED"


@pytest.fixture
def own_mlflow(tmp_path: Path) -> Iterator[RunningMlflow]:
    with run_mlflow(tmp_path / "server") as running:
        yield running


def test_mlflow_down_fails_each_asset_with_words_and_a_retry_continues(
    tmp_path: Path, own_mlflow: RunningMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down before training, lost in the midst of it, down before registering."""
    chain = new_chain(tmp_path / "chain", mlflow_url=own_mlflow.url, spec=_spec())
    own_mlflow.process.stop()
    down = chain.run()
    assert list(down.failures) == ["trained_model"]
    assert "does not answer" in down.failures["trained_model"]
    assert STILL_SERVED in down.failures["trained_model"]
    assert "start MLflow" in down.failures["trained_model"]
    own_mlflow.process.restart()

    original = candidates.CANDIDATES["random_forest"]

    def pull_the_plug(seed: int) -> Any:
        if own_mlflow.process.running:
            own_mlflow.process.kill()
        return original(seed)

    with monkeypatch.context() as patched:
        patched.setitem(candidates.CANDIDATES, "random_forest", pull_the_plug)
        lost = chain.run("trained_model")
    assert list(lost.failures) == ["trained_model"]
    assert STILL_SERVED in lost.failures["trained_model"]
    own_mlflow.process.restart()
    assert "RUNNING" in {run.info.status for run in _runs(chain)}, "nobody could mark them"

    trained = chain.run("trained_model")
    assert trained.failures == {}
    assert "RUNNING" not in {run.info.status for run in _runs(chain)}
    own_mlflow.process.stop()
    unregistered = chain.run("registered_model")
    assert STILL_SERVED in unregistered.failures["registered_model"]
    own_mlflow.process.restart()
    registered = chain.run("registered_model").values["registered_model"]
    assert (registered.version, registered.run_id) == (1, trained.values["trained_model"].run_id)
