"""Model files: what they mean."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from platform_assets.components import model_file
from platform_assets.components.loading import SHIPPED, read_models
from platform_assets.components.model_file import code_version, read_model
from platform_assets.model_spec import (
    CandidateSpec,
    ComputeResources,
    Evaluation,
    EventTime,
    FeatureSpec,
    JoinKey,
    Source,
    Split,
    SqlQuery,
    Target,
    Task,
)
from platform_assets.model_spec.training import estimators, metrics
from platform_assets.training.estimators import named_estimators
from platform_assets.training.metrics import metrics_of
from serving_gateway.contract import DType
from tests.support.model_files import FULL, MINIMAL, write
from tests.support.models import IRIS


def test_minimal_file_gets_good_defaults(tmp_path: Path) -> None:
    spec = read_model(write(tmp_path, MINIMAL))

    assert spec.model_name == "patients"
    assert spec.task is Task.BINARY
    assert spec.source == Source(str(tmp_path / "patients" / "patients.csv"))
    assert spec.join_key == JoinKey("patient_id", DType.INT64)
    assert spec.event_time is None
    assert spec.features == (
        FeatureSpec("age", DType.INT64),
        FeatureSpec("ward", DType.BYTES),
        FeatureSpec("smoker", DType.BOOL, nullable=True),
        FeatureSpec("weight", DType.FP32),
    )
    assert spec.target == Target("readmitted", DType.BOOL)
    assert spec.candidates == tuple(
        CandidateSpec(name)
        for name in ("logistic_regression", "random_forest", "hist_gradient_boosting")
    )
    assert spec.evaluation == Evaluation(metric="balanced_accuracy", split=Split.ENTITY)
    assert spec.gates.metric_floor == 0.6


def test_every_field_reaches_the_model(tmp_path: Path) -> None:
    spec = read_model(write(tmp_path, FULL))

    assert (spec.model_name, spec.description) == ("stays", "Days in hospital.")
    assert spec.owners == ("ml@example.org", "team:wards")
    assert spec.tags == {"domain": "health"}
    assert spec.source == Source(
        sql=SqlQuery(
            "postgresql://reader:${SOURCE_PASSWORD}@db/hospital",
            "SELECT * FROM stays",
            timedelta(minutes=10),
            "SELECT max(changed) FROM stays",
        ),
        check_every=timedelta(minutes=5),
    )
    assert spec.join_key == JoinKey("stay", DType.BYTES)
    assert spec.event_time is not None
    assert (spec.event_time.name, spec.event_time.timezone) == ("admitted", "Europe/Berlin")
    assert spec.ttl == timedelta(hours=36)
    assert spec.features == (
        FeatureSpec("age", DType.INT64, minimum=0, maximum=130),
        FeatureSpec("ward", DType.BYTES),
        FeatureSpec("dose", DType.FP32),
        FeatureSpec("rate", DType.FP64, nullable=True),
    )
    assert spec.target == Target("days", DType.FP64, drop_missing=True)
    assert spec.candidates == (
        CandidateSpec("ridge"),
        CandidateSpec("random_forest", grid={"max_depth": (4, None), "n_estimators": (50,)}),
        CandidateSpec(function="tests.support.estimators:boosted"),
    )
    assert spec.evaluation == Evaluation(
        "mean_absolute_error", folds=3, fraction=0.25, split=Split.TIME, seed=7, threads=2
    )
    assert (spec.gates.metric_floor, spec.gates.regression_tolerance) == (2, 0.1)
    assert spec.gates.allow_breaking
    assert (spec.serving.max_batch_size, spec.serving.retention) == (64, 3)
    assert spec.serving.dynamic_batching
    assert spec.automation.schedule == "0 3 * * MON"
    assert spec.automation.timezone == "Europe/Zurich"
    assert spec.automation.on_new_data
    assert spec.automation.on_drift
    assert spec.automation.freshness == timedelta(hours=24)
    assert spec.kubernetes.resources == {
        "trained_model": ComputeResources("2", "4Gi"),
        "features": ComputeResources(None, "1.5G"),
    }


def test_columns_of_any_name_are_read_under_names_of_tensors(tmp_path: Path) -> None:
    text = (
        MINIMAL.replace("age: integer", 'age: {type: integer, from: "age in years"}')
        .replace("{column: patient_id}", "{column: patient_id, from: Patient ID}")
        .replace("column: readmitted", "column: readmitted, from: '30-day?'")
        .replace("  task:", "  event_timestamp: {column: at, from: Admitted at}\n  task:")
        .replace("patients.csv", "patients.csv, separator: ;")
    )
    spec = read_model(write(tmp_path, text))

    assert spec.features[0] == FeatureSpec("age", DType.INT64, source_column="age in years")
    assert spec.join_key == JoinKey("patient_id", source_column="Patient ID")
    assert spec.target == Target("readmitted", DType.BOOL, source_column="30-day?")
    assert spec.event_time == EventTime("at", source_column="Admitted at")
    assert spec.source == Source(str(tmp_path / "patients" / "patients.csv"), ";")


def test_shipped_iris_is_the_model_of_the_tests() -> None:
    shipped = {spec.model_name: spec for spec in read_models(SHIPPED).specs.values()}["best_model"]

    own = {"owners", "description", "tags", "code_version", "automation"}
    for field in fields(IRIS):
        if field.name not in own:
            assert getattr(shipped, field.name) == getattr(IRIS, field.name), field.name
    assert shipped.automation.schedule == "0 3 * * *"


def test_shipped_models_name_columns_that_their_data_sets_have() -> None:
    from vega_datasets import data

    by_name = {spec.model_name: spec for spec in read_models(SHIPPED).specs.values()}
    for name, frame in (("cars", data.cars()), ("seattle_weather", data.seattle_weather())):
        spec = by_name[name]
        assert spec.source == Source(dataset=f"vega.{name}")
        time = [spec.event_time.name] if spec.event_time else []
        assert {*spec.feature_names, spec.target.name, *time} <= set(frame.columns)
        for feature in spec.features:
            column = frame[feature.name]
            assert bool(column.isna().any()) <= feature.nullable, feature.name
            if feature.minimum is not None and feature.maximum is not None:
                assert feature.minimum <= column.min() <= column.max() <= feature.maximum


@pytest.mark.parametrize("task", Task)
def test_a_model_file_names_the_estimators_and_metrics_of_the_training(task: Task) -> None:
    assert set(estimators(task)) == set(named_estimators(task))
    assert set(metrics(task)) == {one.name for one in metrics_of(task)}


def test_the_description_of_models_is_imported_without_what_reads_and_trains() -> None:
    code = (
        "import sys, platform_assets.model_spec\n"
        "print({'dagster', 'feast', 'mlflow', 'numpy', 'pandas', 'sklearn'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("${SOURCE_DATA}/x.csv", "${SOURCE_DATA}/x.csv"),
        ("/data/x.csv", "/data/x.csv"),
        ("days/*.parquet", "FOLDER/days/*.parquet"),
        ("../x.csv", "ABOVE/x.csv"),
    ],
)
def test_paths_count_from_the_model_file(tmp_path: Path, written: str, path: str) -> None:
    spec = read_model(write(tmp_path, MINIMAL.replace("patients.csv", f'"{written}"')))

    path = path.replace("FOLDER", str(tmp_path / "patients")).replace("ABOVE", str(tmp_path))
    assert spec.source == Source(path)


def test_above_a_folder_that_is_a_link_is_what_is_above_its_target(tmp_path: Path) -> None:
    file = write(tmp_path / "real", MINIMAL.replace("patients.csv", "../x.csv"))
    (tmp_path / "link").symlink_to(file.parent)

    spec = read_model(tmp_path / "link" / file.name)

    assert spec.source == Source(str(tmp_path / "real" / "x.csv"))


def test_code_version_follows_the_file_and_the_lock(tmp_path: Path) -> None:
    lock, absent = tmp_path / "requirements.lock.txt", tmp_path / "absent.txt"
    lock.write_text("onnx==1.0\n")
    other = tmp_path / "other.txt"
    other.write_text("onnx==1.1\n")

    versions = {code_version(text, (), at) for text in (b"a", b"b") for at in (lock, other, absent)}

    assert len(versions) == 6
    assert all(len(bytes.fromhex(version)) == 32 for version in versions)
    assert code_version(b"a", (), lock) == code_version(b"a", (), lock)


def test_code_version_follows_the_modules_of_functions_and_the_platforms_own_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "own_estimators.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = []
    for text in ("one = 1", "one = 2"):
        module.write_text(text)
        versions.append(code_version(b"a", ["own_estimators:one"]))
    versions.append(code_version(b"a"))
    monkeypatch.setattr(model_file, "_own_code", lambda: b"of another release")
    versions.append(code_version(b"a"))
    assert len(set(versions)) == 4


def test_code_version_of_a_model_changes_with_its_file(tmp_path: Path) -> None:
    first = read_model(write(tmp_path, MINIMAL)).code_version
    second = read_model(write(tmp_path, MINIMAL.replace("0.6", "0.7"))).code_version

    assert first != second
