"""The registry on a real MLflow server: idempotent, quick to fail, never unpickling."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest

from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.mlflow import (
    MlflowResource,
    MlflowUnavailable,
    RegistryError,
    RegistryNotFound,
)
from platform_assets.resources.mlflow_client import open_client
from platform_assets.resources.mlflow_models import distributions
from platform_assets.resources.mlflow_runs import MODEL_URI_TAG, Dataset
from platform_assets.resources.records import (
    Estimate,
    EvaluationSet,
    RegisteredVersion,
    SplitRecord,
    TrainedModel,
)
from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    RUN_ID_TAG,
    SIGNATURE_ARTIFACT,
    DType,
    Feature,
    Signature,
)
from serving_gateway.control.registry import Registry
from serving_gateway.errors import Conflict
from tests.support.models import IRIS
from tests.support.onnx_models import telltale
from tests.support.servers import ROOT, OwnMlflow, RunningMlflow

FINGERPRINT = "ab" * 32
ROWS = np.eye(4, dtype=np.float32) * 10
SIGNED = IRIS.signature((0, 1, 2))
SPLIT = SplitRecord("entity", seed=7, fraction=0.2)


@pytest.fixture
def mlflow(shared_mlflow: RunningMlflow) -> MlflowResource:
    return MlflowResource(tracking_uri=shared_mlflow.url)


@pytest.fixture
def name() -> str:
    """A model name that no other test uses."""
    return f"model_{uuid.uuid4().hex[:8]}"


def _trained_run(mlflow: MlflowResource, name: str) -> str:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(ROWS, [0, 1, 2, 0])
    with mlflow.run(name, "train") as run:
        run.sklearn_model(estimator, name, SIGNED)
    return run.run_id


def _register(
    mlflow: MlflowResource, name: str, run_id: str, signature: Signature | None = None
) -> RegisteredVersion:
    trained = TrainedModel(
        model_name=name,
        run_id=run_id,
        estimator=None,
        signature=signature or SIGNED,
        metrics={"accuracy": 0.975},
        data_fingerprint=FINGERPRINT,
        code_version="c0de",
        dagster_run_id="d0d0",
        evaluation_rows=4,
        metric=Estimate(0.975, 0.9, 1.0, 0.95, 4),
        split=SPLIT,
        classes_not_evaluated=(),
        picture=b"",
        threshold=0.23,
    )
    return mlflow.register(trained)


def test_a_run_is_registered_once_however_often_it_is_asked(
    mlflow: MlflowResource, name: str
) -> None:
    run_id = _trained_run(mlflow, name)
    first = _register(mlflow, name, run_id)
    assert first == RegisteredVersion(
        name, 1, run_id, FINGERPRINT, SIGNED, "c0de", "d0d0", SPLIT, 0.23
    )
    assert [_register(mlflow, name, run_id) for _ in range(2)] == [first, first]
    assert _register(mlflow, name, _trained_run(mlflow, name)).version == 2
    assert mlflow.version(name, 1) == first


def test_a_version_carries_what_serving_needs_from_its_first_moment(
    mlflow: MlflowResource, name: str
) -> None:
    run_id = _trained_run(mlflow, name)
    version = _register(mlflow, name, run_id).version
    tags = mlflow.version_tags(name, version)
    assert tags[RUN_ID_TAG] == run_id
    assert tags[DATA_FINGERPRINT_TAG] == FINGERPRINT
    assert mlflow.artifact_bytes(run_id, SIGNATURE_ARTIFACT) == msgspec.json.encode(SIGNED)
    assert tags["metric.accuracy"] == "0.975000"
    assert tags[CODE_VERSION_TAG] == "c0de"
    assert tags[DAGSTER_RUN_TAG] == "d0d0"


WIDE = Signature(
    tuple(Feature(f"sensor_reading_of_the_plant_{i:04}", DType.FP64) for i in range(2_000)), None
)
"""Longer as JSON than any tag of MLflow's may be."""


async def test_a_signature_of_thousands_of_features_reaches_pipeline_and_gateway(
    mlflow: MlflowResource, name: str
) -> None:
    assert len(msgspec.json.encode(WIDE)) > 100_000
    run_id = _trained_run(mlflow, name)
    _register(mlflow, name, run_id, WIDE)
    gateway = Registry(mlflow.tracking_uri)
    try:
        found = await gateway.version(name, 1)
        assert mlflow.version(name, 1).signature == WIDE
        assert found is not None
        assert (found.run_id, found.signature) == (run_id, WIDE)
        # What a run holds may be written again; a version stays what it was registered as.
        mlflow.log_artifact_bytes(run_id, SIGNATURE_ARTIFACT, msgspec.json.encode(SIGNED))
        with pytest.raises(Conflict, match="what its version was registered with"):
            await gateway.version(name, 1)
        with pytest.raises(RegistryError, match="not what its version was registered with"):
            MlflowResource(tracking_uri=mlflow.tracking_uri).version(name, 1)
    finally:
        await gateway.aclose()


def test_the_kept_model_loads_again_and_answers_alike(mlflow: MlflowResource, name: str) -> None:
    from mlflow.sklearn import load_model
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    run_id = _trained_run(mlflow, name)
    client = open_client(mlflow.tracking_uri)
    uri = client.get_run(run_id).data.tags[MODEL_URI_TAG]
    found = client.get_logged_model(uri.removeprefix("models:/"))
    assert found.source_run_id == run_id
    files: Any = get_artifact_repository(found.artifact_location, mlflow.tracking_uri)
    folder = files.download_artifacts("")
    load: Any = load_model
    assert load(folder).predict(ROWS).tolist() == [0, 1, 2, 0]
    assert not list(Path(folder).rglob("*.pkl"))


def test_a_model_of_mixed_types_is_described_by_its_columns(
    mlflow: MlflowResource, name: str
) -> None:
    from mlflow.models import Model
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from sklearn.dummy import DummyClassifier

    features = (
        Feature("city", DType.BYTES),
        Feature("age", DType.INT64, nullable=True),
        Feature("member", DType.BOOL),
    )
    estimator = DummyClassifier().fit([[0], [1]], ["no", "yes"])
    with mlflow.run(name, "train") as run:
        model_id = run.sklearn_model(estimator, name, Signature(features, None, ("no", "yes")))
    found = open_client(mlflow.tracking_uri).get_logged_model(model_id)
    files: Any = get_artifact_repository(found.artifact_location, mlflow.tracking_uri)
    described = Model.load(files.download_artifacts("")).signature
    assert described.inputs.to_dict() == [
        {"name": "city", "type": "string", "required": True},
        {"name": "age", "type": "double", "required": True},
        {"name": "member", "type": "boolean", "required": True},
    ]
    assert described.outputs.to_dict() == [
        {"name": "label", "type": "string", "required": True},
        {
            "name": "probabilities",
            "type": "array",
            "items": {"type": "float"},
            "required": False,
        },
    ]


def test_a_logged_model_has_its_metrics_parameters_data_example_and_graph(
    mlflow: MlflowResource, name: str
) -> None:
    import onnx
    from mlflow import onnx as mlflow_onnx
    from mlflow.models import Model
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(ROWS, [0, 1, 2, 0])
    columns = [feature.name for feature in SIGNED.features]
    example = pd.DataFrame(ROWS[:2], columns=columns)
    rows = Dataset("flowers", "evaluation", "flowers.csv", FINGERPRINT, rows=4, entities=3)
    with mlflow.run(name, "train") as run:
        run.log_datasets([rows], SIGNED)
        model_id = run.sklearn_model(estimator, name, SIGNED, params={"C": 1.0}, example=example)
        run.record(metrics={"accuracy": 0.75}, model_id=model_id, dataset=rows)
    graph = telltale(1)
    mlflow.add_onnx_model(run.run_id, graph)
    version = _register(mlflow, name, run.run_id).version

    client = open_client(mlflow.tracking_uri)
    logged = client.get_logged_model(model_id)
    assert logged.params == {"C": "1.0"}
    assert [(one.key, one.value, one.dataset_name) for one in logged.metrics] == [
        ("accuracy", 0.75, "flowers")
    ]
    (used,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("flowers", FINGERPRINT[:36])
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "evaluation"}
    assert json.loads(used.dataset.profile) == {"num_rows": 4, "num_entities": 3}
    files: Any = get_artifact_repository(logged.artifact_location, mlflow.tracking_uri)
    folder = Path(files.download_artifacts(""))
    kept: Any = Model.load(str(folder)).load_input_example(str(folder))
    pd.testing.assert_frame_equal(kept, example, check_dtype=False)
    assert (folder / "model.onnx").read_bytes() == graph
    load: Any = mlflow_onnx.load_model
    assert load(str(folder)).SerializeToString() == onnx.load_from_string(graph).SerializeToString()
    assert version == 1


def test_a_kept_model_names_the_packages_that_load_it() -> None:
    types = ["httpx._models.Request", "numpy.dtype", "a_module_of_ones_own.Model"]
    names = distributions(types)
    assert names[0] == "scikit-learn"
    assert names[-1] == "httpx"
    assert names.count("numpy") == 1


def test_an_evaluation_set_is_fetched_once_until_it_is_written_again(
    mlflow: MlflowResource, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(label: int) -> None:
        labels = np.full(2, label)
        rows = pd.DataFrame({"x": np.zeros(2, np.float32)})
        data = write_evaluation(EvaluationSet(rows, labels, labels, None, np.arange(2)))
        mlflow.log_artifact_bytes(run.run_id, EVALUATION_ARTIFACT, data)

    with mlflow.run(name, "train") as run:
        pass
    fetched: list[str] = []
    fetch = MlflowResource.artifact_bytes

    def counted(self: MlflowResource, run_id: str, path: str) -> bytes:
        fetched.append(path)
        return fetch(self, run_id, path)

    monkeypatch.setattr(MlflowResource, "artifact_bytes", counted)
    for label in (0, 1):
        write(label)
        found = [mlflow.evaluation_set(run.run_id) for _ in range(3)]
        assert [one.labels.tolist() for one in found] == [[label, label]] * 3
    assert fetched == [EVALUATION_ARTIFACT] * 2


def test_tags_and_aliases_are_recorded_and_nothing_else_changes(
    mlflow: MlflowResource, name: str
) -> None:
    version = _register(mlflow, name, _trained_run(mlflow, name))
    mlflow.set_version_tags(name, 1, {"serving.onnx_sha256": "cd" * 32})
    mlflow.set_alias(name, "production", 1)
    assert mlflow.alias_version(name, "production") == 1
    assert mlflow.alias_version(name, "other") is None
    assert mlflow.version_tags(name, 1)["serving.onnx_sha256"] == "cd" * 32
    assert mlflow.version(name, 1) == version


def test_artifacts_come_back_byte_for_byte(mlflow: MlflowResource, name: str) -> None:
    data = bytes(range(256)) * 1000
    with mlflow.run(name, "run") as run:
        run.artifact("deep/er/model.onnx", data)
    mlflow.log_artifact_bytes(run.run_id, "top.bin", b"")
    assert mlflow.artifact_bytes(run.run_id, "deep/er/model.onnx") == data
    assert mlflow.artifact_bytes(run.run_id, "top.bin") == b""


@pytest.mark.parametrize("path", ["../up.bin", "/etc/x", "", "a/../../b"])
def test_an_artifact_path_cannot_leave_its_run(
    mlflow: MlflowResource, name: str, path: str
) -> None:
    with mlflow.run(name, "run") as run, pytest.raises(RegistryError, match="not a relative path"):
        run.artifact(path, b"x")


def test_what_is_not_there_is_said_to_be_not_there(mlflow: MlflowResource, name: str) -> None:
    with mlflow.run(name, "run") as run:
        run.artifact("folder/file", b"x")
    for ask in (
        lambda: mlflow.version(name, 1),
        lambda: mlflow.artifact_bytes(run.run_id, "none"),
        lambda: mlflow.artifact_bytes(run.run_id, "folder"),
        lambda: mlflow.artifact_bytes("0" * 32, "none"),
        lambda: mlflow.set_alias(name, "production", 4),
        lambda: _register(mlflow, name, "0" * 32),
        lambda: _register(mlflow, name, run.run_id),
    ):
        with pytest.raises(RegistryNotFound):
            ask()
    assert mlflow.alias_version(name, "production") is None


def test_a_version_that_others_registered_without_our_tags_is_refused_with_words(
    mlflow: MlflowResource, name: str
) -> None:
    client = open_client(mlflow.tracking_uri)
    run_id = _trained_run(mlflow, name)
    client.create_registered_model(name)
    uri = client.get_run(run_id).data.tags[MODEL_URI_TAG]
    client.create_model_version(name, uri, run_id, model_id=uri.removeprefix("models:/"))
    with pytest.raises(RegistryError, match="was not registered by this pipeline"):
        mlflow.version(name, 1)


class MaliciousObject:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_to_ask_for_an_alias_imports_nothing_of_feast(shared_mlflow: RunningMlflow) -> None:
    """As sensors do all day, and steps in pods of their own."""
    ask = (
        "import sys; from platform_assets.resources.mlflow import MlflowResource; "
        f"assert MlflowResource(tracking_uri={shared_mlflow.url!r}).aliases('none') == {{}}; "
        "print(*(name for name in ('mlflow', 'feast') if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["mlflow"]


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_a_web_page_that_rebinds_a_name_reaches_no_api_of_mlflow(
    shared_mlflow: RunningMlflow, headers: dict[str, str]
) -> None:
    url = f"{shared_mlflow.url}/api/2.0/mlflow/experiments/create"
    refused = httpx.post(url, json={"name": "evil"}, headers=headers, trust_env=False)
    assert refused.status_code == 403, refused.text


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/%252e%252e/etc/passwd"),
        *("/%2Fetc%2Fpasswd", "?path=../../etc"),
    ],
)
def test_no_path_of_an_artifact_leaves_the_store(shared_mlflow: RunningMlflow, path: str) -> None:
    url = f"{shared_mlflow.url}/api/2.0/mlflow-artifacts/artifacts{path}"
    refused = httpx.get(url, trust_env=False)
    assert refused.status_code in {400, 404}, refused.text
    assert "root:" not in refused.text


@pytest.mark.parametrize("source", ["file:///etc", "/etc", "mlflow-artifacts:/../../etc"])
def test_no_version_is_registered_of_files_outside_of_a_run(
    shared_mlflow: RunningMlflow, source: str
) -> None:
    with httpx.Client(base_url=shared_mlflow.url, trust_env=False) as client:
        client.post("/api/2.0/mlflow/registered-models/create", json={"name": "outside"})
        body = {"name": "outside", "source": source}
        refused = client.post("/api/2.0/mlflow/model-versions/create", json=body)
    assert refused.status_code == 400, refused.text


def test_a_malicious_pickle_in_the_registry_is_never_opened(
    mlflow: MlflowResource, name: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    hostile = pickle.dumps(MaliciousObject(trace))
    run_id = _trained_run(mlflow, name)
    for path in ("model/model.pkl", "model.onnx", EVALUATION_ARTIFACT):
        mlflow.log_artifact_bytes(run_id, path, hostile)
    _register(mlflow, name, run_id)
    mlflow.version(name, 1)
    assert mlflow.artifact_bytes(run_id, "model.onnx") == hostile
    with pytest.raises(RegistryError, match="no evaluation set"):
        mlflow.evaluation_set(run_id)
    assert not trace.exists()
    pickle.loads(hostile)
    assert trace.exists(), "the trap would have worked"


def test_a_run_ends_as_finished_or_as_failed(mlflow: MlflowResource, name: str) -> None:
    client = open_client(mlflow.tracking_uri)
    with mlflow.run(name, "good") as good:
        pass
    runs = []

    def interrupted() -> None:
        with mlflow.run(name, "parent") as parent:
            runs.append(parent)
            with mlflow.run(name, "child", parent=parent) as child:
                runs.append(child)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    status = [client.get_run(run.run_id).info.status for run in (good, *runs)]
    assert status == ["FINISHED", "FAILED", "FAILED"]


def test_only_abandoned_runs_of_the_model_are_closed(mlflow: MlflowResource, name: str) -> None:
    client = open_client(mlflow.tracking_uri)
    with mlflow.run(name, "first") as made:
        experiment = made.experiment_id
    ids = {
        owner: client.create_run(experiment, tags=mlflow.owner_tags(model, owner)).info.run_id
        for model, owner in ((name, "dead"), (name, "alive"), ("other", "dead too"))
    }
    assert mlflow.close_abandoned_runs(name, lambda owner: "dead" in owner) == [ids["dead"]]
    status = {owner: client.get_run(run_id).info.status for owner, run_id in ids.items()}
    assert status == {"dead": "FAILED", "alive": "RUNNING", "dead too": "RUNNING"}


def test_a_server_that_dies_or_hangs_between_two_calls_is_known_within_seconds(
    mlflow_link: OwnMlflow, name: str
) -> None:
    mlflow = MlflowResource(tracking_uri=mlflow_link.url)
    run_id = _trained_run(mlflow, name)
    mlflow_link.process.signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(MlflowUnavailable):
        mlflow.version_of_run(name, run_id)
    assert time.monotonic() - started < 10
    mlflow_link.process.signal(signal.SIGCONT)

    impatient = MlflowResource(tracking_uri=mlflow_link.url, patience_s=2)

    def cut_off() -> None:
        with impatient.run(name, "cut off") as run:
            mlflow_link.process.kill()
            run.record(metrics={"accuracy": 1.0})

    started = time.monotonic()
    with pytest.raises(MlflowUnavailable):
        cut_off()
    assert time.monotonic() - started < 20
    mlflow_link.process.restart()
    assert _register(mlflow, name, run_id).version == 1
