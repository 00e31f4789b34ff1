"""From source to registered version on the real Feast and MLflow: gates, retries, records."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from platform_assets.export.conversion import export
from platform_assets.export.inspection import sha256
from platform_assets.export.parity import compare
from platform_assets.export.runtime import model_inputs, run_graph
from platform_assets.model_spec import CandidateSpec, ModelSpec, Range, Search, Task
from platform_assets.resources.environment import ENVIRONMENT_TAG
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_client import open_client
from platform_assets.resources.records import RegisteredVersion, SplitRecord, TrainedModel
from platform_assets.training import selection, train
from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    DType,
)
from tests.support.chain import UNREACHABLE, Chain, new_chain, op_config
from tests.support.models import IRIS, QUICK_IRIS
from tests.support.servers import OwnMlflow, RunningMlflow
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec

STILL_SERVED = "Nothing changed in serving: GET /models of the gateway says what is in production."
CANDIDATES = [str(one.estimator) for one in IRIS.candidates]


def _spec(base: ModelSpec = QUICK_IRIS, **changes: Any) -> ModelSpec:
    """A model under a name that no other test uses."""
    return dataclasses.replace(base, model_name=f"model_{uuid.uuid4().hex[:8]}", **changes)


@pytest.fixture
def chain(tmp_path: Path, shared_mlflow: RunningMlflow) -> Chain:
    return new_chain(tmp_path, mlflow_url=shared_mlflow.url, spec=_spec(code_version="c0de"))


def _runs(chain: Chain) -> list[Any]:
    client = open_client(chain.mlflow.tracking_uri)
    experiment = client.get_experiment_by_name(chain.spec.model_name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def _swap_labels(chain: Chain) -> None:
    """Give half of the flowers the label of another species: nothing learns that well."""
    names = IRIS.target.classes
    header, *rows = chain.source.read_text().splitlines()
    changed = []
    for row in rows:
        entity, rest = row.split(",", 1)
        cells = rest.split(",")
        if int(entity) % 2:
            shift = 1 + int(entity) // 2 % 2
            cells[-1] = str(names[(names.index(cells[-1]) + shift) % 3])
        changed.append(",".join([entity, *cells]))
    chain.source.write_text("\n".join([header, *changed]) + "\n")


def test_the_chain_ends_in_a_registered_version_with_its_evidence(chain: Chain) -> None:
    chain.spec = dataclasses.replace(chain.spec, candidates=IRIS.candidates)
    outcome = chain.run()
    assert outcome.failures == {}
    assert all(check.passed for check in outcome.checks.values())
    trained_checks = {"metric_floor": True, "evaluation_classes": False}
    for name, blocking in trained_checks.items():
        assert outcome.checks[f"trained_model.{name}"].blocking is blocking
    trained: TrainedModel = outcome.values["trained_model"]
    registered: RegisteredVersion = outcome.values["registered_model"]
    data = outcome.values["features"]
    assert registered == RegisteredVersion(
        chain.spec.model_name,
        1,
        trained.run_id,
        data.fingerprint,
        chain.spec.signature(("setosa", "versicolor", "virginica")),
        "c0de",
        trained.dagster_run_id,
        SplitRecord(
            "entity",
            chain.spec.evaluation.seed,
            chain.spec.evaluation.fraction,
            entities=chain.spec.join_key.name,
        ),
    )
    assert chain.mlflow.version(chain.spec.model_name, 1) == registered

    parent = next(run for run in _runs(chain) if run.info.run_id == trained.run_id)
    children = [run for run in _runs(chain) if run is not parent and "candidate" in run.data.params]
    children = [run for run in children if run.info.run_id != trained.run_id]
    assert {run.data.params["candidate"] for run in children} == set(CANDIDATES)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {trained.run_id}
    assert all("cv_accuracy" in run.data.metrics for run in children)
    assert {run.info.status for run in _runs(chain)} == {"FINISHED"}
    assert parent.data.metrics["accuracy"] == trained.metrics["accuracy"]
    assert parent.data.tags[DATA_FINGERPRINT_TAG] == data.fingerprint
    assert parent.data.tags[CODE_VERSION_TAG] == "c0de"
    assert "openblas" in parent.data.tags[ENVIRONMENT_TAG]
    assert chain.instance.get_run_by_id(parent.data.tags[DAGSTER_RUN_TAG]) is not None
    best = max(children, key=lambda run: run.data.metrics["cv_accuracy"])
    assert parent.data.params["candidate"] == best.data.params["candidate"]

    evaluation = chain.mlflow.evaluation_set(trained.run_id)
    assert tuple(evaluation.features.columns) == IRIS.feature_names
    values = evaluation.features
    assert set(values.dtypes) == {np.dtype(np.float32)}
    assert 60 <= len(values) <= 120
    assert np.array_equal(trained.estimator.predict(values), evaluation.labels)
    assert evaluation.probabilities is not None
    assert np.array_equal(trained.estimator.predict_proba(values), evaluation.probabilities)
    assert trained.estimator.classes_.tolist() == list(trained.signature.classes)

    metadata = outcome.metadata["trained_model"]
    assert metadata["mlflow_run"].url == chain.mlflow.run_url(trained.run_id)
    assert len(metadata["scores"].records) == len(CANDIDATES)
    for name in ("evaluation", "curves", "importance", "candidates"):
        assert metadata[name].md_str.startswith("![")
        picture = chain.mlflow.artifact_bytes(trained.run_id, f"evaluation/{name}.png")
        assert picture.startswith(b"\x89PNG")
    gate: Any = outcome.checks["trained_model.metric_floor"].metadata["evaluation"]
    assert gate.md_str.partition("(")[2] == metadata["evaluation"].md_str.partition("(")[2]


def _write_mixed(path: Path, spec: ModelSpec) -> pd.DataFrame:
    """Write a source of `mixed_rows` as a user would have it, missing values as empty cells."""
    rows = mixed_rows(spec, count=300)
    frame = rows.features.copy()
    frame["visits"] = frame["visits"].astype("Int64")
    frame["insured"] = frame["insured"].astype("boolean")
    frame["entity_id"] = rows.groups
    frame["event_timestamp"] = pd.Series(rows.times).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    frame["outcome"] = rows.labels
    frame.to_csv(path, index=False)
    return rows.features


def test_mixed_columns_come_through_feast_and_mlflow_as_the_tensors_that_are_served(
    tmp_path: Path, shared_mlflow: RunningMlflow
) -> None:
    base = mixed_spec(Task.MULTICLASS, CLASSES["texts"])
    spec = _spec(base, candidates=(CandidateSpec("random_forest"), CandidateSpec("decision_tree")))
    chain = new_chain(tmp_path, mlflow_url=shared_mlflow.url, spec=spec)
    source = _write_mixed(chain.source, spec)
    outcome = chain.run()
    assert outcome.failures == {}
    trained: TrainedModel = outcome.values["trained_model"]

    evaluation = chain.mlflow.evaluation_set(trained.run_id)
    expected = source.iloc[evaluation.groups - 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(evaluation.features, expected)
    assert set(evaluation.label_true) == set(CLASSES["texts"])

    signature = outcome.values["registered_model"].signature
    graph = export(trained.estimator, signature, spec.model_name)
    outputs = run_graph(graph, model_inputs(signature, evaluation.features))
    parity = compare(
        outputs["label"], outputs["probabilities"], evaluation.labels, evaluation.probabilities
    )
    assert parity.holds, parity

    second: TrainedModel = chain.run("trained_model").values["trained_model"]
    assert second.run_id != trained.run_id
    assert sha256(export(second.estimator, signature, spec.model_name)) == sha256(graph)

    answers = _loaded(chain, trained.run_id).predict(mixed_frame(50, 4, wild=True))
    assert set(answers) <= set(CLASSES["texts"])


def test_boosted_trees_are_searched_for_and_kept_as_any_model(
    tmp_path: Path, shared_mlflow: RunningMlflow
) -> None:
    base = mixed_spec(Task.BINARY, CLASSES["two texts"])
    ranges = {"n_estimators": Range(5, 9), "learning_rate": Range(0.05, 0.3)}
    candidates = (
        CandidateSpec("lightgbm", ranges=ranges),
        CandidateSpec(pipeline="tests.support.pipelines:boosted_classes"),
    )
    spec = _spec(base, candidates=candidates, search=Search(trials=2))
    chain = new_chain(tmp_path, mlflow_url=shared_mlflow.url, spec=spec)
    _write_mixed(chain.source, spec)
    outcome = chain.run()
    assert outcome.failures == {}
    report = outcome.metadata["trained_model"]["search"].value
    assert (report["begun"], report["failed"]) == (2, 0)
    names = {run.info.run_name for run in _runs(chain) if "mlflow.parentRunId" in run.data.tags}
    trials = {f"lightgbm trial {number}" for number in (1, 2)}
    assert names == {"lightgbm", "tests.support.pipelines:boosted_classes", *trials}
    assert {run.info.status for run in _runs(chain)} == {"FINISHED"}

    trained: TrainedModel = outcome.values["trained_model"]
    signature = outcome.values["registered_model"].signature
    evaluation = chain.mlflow.evaluation_set(trained.run_id)
    outputs = run_graph(
        export(trained.estimator, signature, spec.model_name),
        model_inputs(signature, evaluation.features),
    )
    parity = compare(
        outputs["label"], outputs["probabilities"], evaluation.labels, evaluation.probabilities
    )
    assert parity.holds, parity
    answers = _loaded(chain, trained.run_id).predict(evaluation.features)
    assert np.array_equal(answers, evaluation.labels)


def _loaded(chain: Chain, run_id: str) -> Any:
    """The model as MLflow keeps it, for anybody who has scikit-learn."""
    from mlflow.sklearn import load_model
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = open_client(chain.mlflow.tracking_uri)
    uri = client.get_run(run_id).data.tags["serving.model_uri"]
    found = client.get_logged_model(uri.removeprefix("models:/"))
    files: Any = get_artifact_repository(found.artifact_location, chain.mlflow.tracking_uri)
    load: Any = load_model
    return load(files.download_artifacts(""))


def test_a_regression_is_gated_by_the_largest_error_that_is_let_through(
    tmp_path: Path, shared_mlflow: RunningMlflow
) -> None:
    base = mixed_spec(Task.REGRESSION)
    spec = _spec(
        base,
        evaluation=dataclasses.replace(base.evaluation, metric="mean_absolute_error"),
        gates=dataclasses.replace(base.gates, metric_floor=100.0),
    )
    chain = new_chain(tmp_path, mlflow_url=shared_mlflow.url, spec=spec)
    _write_mixed(chain.source, spec)
    outcome = chain.run()
    gate = outcome.checks["trained_model.metric_floor"]
    assert not gate.passed
    assert "mean_absolute_error" in (gate.description or "")
    assert "is above the ceiling 100" in (gate.description or "")
    assert "registered_model" not in outcome.values
    lifted = op_config("trained_model_metric_floor", {"metric_floor": 1e6}, spec)
    outcome = chain.run(run_config=lifted)
    assert outcome.values["registered_model"].signature.label_output == "prediction"
    evaluation = chain.mlflow.evaluation_set(outcome.values["trained_model"].run_id)
    assert evaluation.labels.dtype == np.float64
    assert evaluation.probabilities is None


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

    lowered = op_config("trained_model_metric_floor", {"metric_floor": 0.1}, chain.spec)
    assert chain.run(run_config=lowered).values["registered_model"].version == 1


def test_codes_that_have_names_are_learned_and_promised_as_words(chain: Chain) -> None:
    names = tuple(map(str, IRIS.target.classes))
    text = chain.source.read_text()
    for code, name in enumerate(names):
        text = text.replace(f",{name}\n", f",{code}\n")
    chain.source.write_text(text)
    coded = dataclasses.replace(
        IRIS.target, type=DType.INT64, classes=(2, 0, 1), class_names=(names[2], *names[:2])
    )
    chain.spec = dataclasses.replace(chain.spec, target=coded)
    outcome = chain.run()
    assert outcome.failures == {}
    trained: TrainedModel = outcome.values["trained_model"]
    assert outcome.values["registered_model"].signature.classes == coded.class_names
    labels = chain.mlflow.evaluation_set(trained.run_id).labels
    assert set(labels.tolist()) == set(names)
    assert trained.metrics["accuracy"] > 0.9


def test_a_class_without_evaluation_rows_is_a_warning(chain: Chain) -> None:
    lines = chain.source.read_text().splitlines()
    # Entities that this seed does not hold out.
    rare = [number for number in range(1, 151) if number not in _held_out(chain)][:3]
    changed = [
        line.rsplit(",", 1)[0] + ",sibirica" if line.split(",")[0] in map(str, rare) else line
        for line in lines
    ]
    chain.source.write_text("\n".join(changed) + "\n")
    classes = (*IRIS.target.classes, "sibirica")
    four = dataclasses.replace(chain.spec.target, classes=classes)
    chain.spec = dataclasses.replace(chain.spec, target=four)
    outcome = chain.run()
    warned = outcome.checks["trained_model.evaluation_classes"]
    assert not warned.passed
    assert "no evaluation row has the class 'sibirica'" in (warned.description or "")
    assert outcome.values["registered_model"].signature.classes == classes


def _held_out(chain: Chain) -> set[int]:
    from platform_assets.training.rows import Rows
    from platform_assets.training.splits import split_evaluation

    ids = np.arange(1, 151)
    rows = Rows(pd.DataFrame(index=ids), ids % 3, ids)
    return set(split_evaluation(rows, chain.spec)[1].groups.tolist())


def test_a_candidate_that_cannot_be_fitted_to_one_fold_fails_alone(chain: Chain) -> None:
    fussy = CandidateSpec(function="tests.support.estimators:fussy")
    # Of two folds, it can take the rows.
    chain.spec = dataclasses.replace(
        chain.spec,
        candidates=(fussy, CandidateSpec("logistic_regression")),
        evaluation=IRIS.evaluation,
    )
    outcome = chain.run()
    assert not outcome.failures
    reasons = outcome.metadata["trained_model"]["candidates_failed"].value
    assert reasons == {
        "tests.support.estimators:fussy": f"fold 1 of {chain.spec.evaluation.folds}: "
        "Fussy cannot be fitted: too many rows for me"
    }
    *_, last = outcome.metadata["trained_model"]["scores"].records
    assert last.data["failed"] == reasons["tests.support.estimators:fussy"]
    notes = {run.info.run_name: run.data.tags.get("mlflow.note.content") for run in _runs(chain)}
    assert notes["tests.support.estimators:fussy"] == last.data["failed"]
    status = {run.info.run_name: run.info.status for run in _runs(chain)}
    assert status == {
        f"train {chain.spec.model_name}": "FINISHED",
        "tests.support.estimators:fussy": "FAILED",
        "logistic_regression": "FINISHED",
    }


def test_without_a_candidate_that_can_be_fitted_there_is_no_model(chain: Chain) -> None:
    fussy = CandidateSpec(function="tests.support.estimators:fussy")
    chain.spec = dataclasses.replace(chain.spec, candidates=(fussy,), evaluation=IRIS.evaluation)
    outcome = chain.run()
    assert list(outcome.failures) == ["trained_model"]
    assert "o candidate can be used:" in outcome.failures["trained_model"]
    assert "Fussy cannot be fitted: too many rows for me" in outcome.failures["trained_model"]
    assert STILL_SERVED in outcome.failures["trained_model"]
    status = {run.info.run_name: run.info.status for run in _runs(chain)}
    assert status[f"train {chain.spec.model_name}"] == "FAILED"
    assert status["tests.support.estimators:fussy"] == "FAILED"


def test_what_cannot_become_onnx_is_said_before_any_run_is_opened(chain: Chain) -> None:
    homemade = CandidateSpec(function="tests.support.estimators:homemade")
    chain.spec = dataclasses.replace(
        chain.spec, candidates=(CandidateSpec("logistic_regression"), homemade)
    )
    outcome = chain.run()
    assert "andidates[1] (tests.support.estimators:homemade)" in outcome.failures["trained_model"]
    assert "Homemade has no ONNX converter" in outcome.failures["trained_model"].replace("\n", " ")
    assert STILL_SERVED in outcome.failures["trained_model"]
    assert _runs(chain) == []


def test_training_waits_for_an_mlflow_that_is_away_for_half_a_minute(
    tmp_path: Path, mlflow_link: OwnMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed during a candidate, and again when the best one is fitted but kept nowhere."""
    chain = new_chain(tmp_path / "chain", mlflow_url=mlflow_link.url, spec=_spec())
    folds, originals = chain.spec.evaluation.folds, (selection.fit, selection.evaluate)
    fitted: list[Any] = []
    back: list[threading.Timer] = []

    def leave(seconds: float) -> None:
        mlflow_link.process.kill()
        back.append(threading.Timer(seconds, mlflow_link.process.restart))
        back[-1].start()

    def fit(*args: Any) -> Any:
        fitted.append(args)
        if len(fitted) == folds + 1:  # in the second candidate
            leave(30)
        return originals[0](*args)

    def evaluate(*args: Any) -> Any:
        leave(1)
        return originals[1](*args)

    monkeypatch.setattr(selection, "fit", fit)
    monkeypatch.setattr(train, "evaluate", evaluate)
    outcome = chain.run()
    for timer in back:
        timer.join()
    assert outcome.failures == {}
    assert len(back) == 2
    assert outcome.values["registered_model"].version == 1
    assert len(fitted) == folds * len(chain.spec.candidates), "nothing was fitted twice"
    assert {run.info.status for run in _runs(chain)} == {"FINISHED"}


def test_mlflow_down_fails_each_asset_with_words_and_a_retry_continues(
    tmp_path: Path, mlflow_link: OwnMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down before training, lost in the midst of it, down before registering."""
    nobody, somebody = (
        MlflowResource(tracking_uri=url, patience_s=1) for url in (UNREACHABLE, mlflow_link.url)
    )
    chain = new_chain(tmp_path / "chain", mlflow_url=UNREACHABLE, spec=_spec())
    down = chain.run()
    assert list(down.failures) == ["trained_model"]
    assert "does not answer" in down.failures["trained_model"]
    assert STILL_SERVED in down.failures["trained_model"]
    assert "start MLflow" in down.failures["trained_model"]
    chain.mlflow = somebody

    original = selection.fit
    calls = []

    def pull_the_plug(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == chain.spec.evaluation.folds + 1:  # in the second candidate
            mlflow_link.process.kill()
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(selection, "fit", pull_the_plug)
        lost = chain.run("trained_model")
    assert list(lost.failures) == ["trained_model"]
    assert STILL_SERVED in lost.failures["trained_model"]
    mlflow_link.process.restart()
    assert "RUNNING" in {run.info.status for run in _runs(chain)}, "nobody could mark them"

    trained = chain.run("trained_model")
    assert trained.failures == {}
    assert "RUNNING" not in {run.info.status for run in _runs(chain)}
    chain.mlflow = nobody
    unregistered = chain.run("registered_model")
    assert STILL_SERVED in unregistered.failures["registered_model"]
    chain.mlflow = somebody
    registered = chain.run("registered_model").values["registered_model"]
    assert (registered.version, registered.run_id) == (1, trained.values["trained_model"].run_id)
