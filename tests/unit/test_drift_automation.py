"""When drift is looked for, and when it starts a training."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from platform_assets.components.loading import read_models
from platform_assets.export.adoption import FOREIGN_DATA
from platform_assets.features.reading import read_source
from platform_assets.features.records import FeatureData
from platform_assets.features.source import FINGERPRINT_METADATA, source_fingerprint
from platform_assets.features.storage import write_feature_data
from platform_assets.model_spec import CandidateSpec, ModelSpec, Source
from platform_assets.monitoring.automation import (
    REPORT_TAG,
    _has_anything_new,
    drift_schedule,
    drift_sensor,
)
from platform_assets.monitoring.checks import drift_check_key
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.mlflow import (
    MlflowResource,
    MlflowUnavailable,
    RegistryNotFound,
)
from platform_assets.resources.source import SourceResource
from platform_assets.training.assets import training_assets
from platform_assets.training.frame import training_data, training_rows
from platform_assets.training.rows import Rows, TrainingError
from serving_gateway.contract import CODE_VERSION_TAG, DATA_FINGERPRINT_TAG
from tests.support.drifting import PRODUCTION, VISITORS, put_in_production, without_automation
from tests.support.scoring import customers_data, shops_data
from tests.support.several_tables import tables, write_files


@dg.op
def nothing() -> None:
    pass


@dg.job
def retrain() -> None:
    nothing()


def judged(instance: dg.DagsterInstance, *, passed: bool, version: int = PRODUCTION) -> str:
    """Have a run evaluate the drift check; return its id."""
    key = drift_check_key(VISITORS)

    @dg.asset_check(asset=key.asset_key, name=key.name)
    def drift() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata={"version": version}
        )

    job = dg.define_asset_job("judge", selection=dg.AssetSelection.checks(drift))
    definitions = dg.Definitions(asset_checks=[drift], jobs=[job])
    return definitions.resolve_job_def("judge").execute_in_process(instance=instance).run_id


class Tags(MlflowResource):
    """An MLflow that knows what the version in production was made of."""

    tracking_uri: str = "http://127.0.0.1:9"
    tags: dict[str, str] = Field(default_factory=dict)
    fails: str = ""

    def version_tags(self, model_name: str, version: int) -> dict[str, str]:
        assert (model_name, version) == (VISITORS.model_name, PRODUCTION)
        if self.fails == "lost":
            raise RegistryNotFound("MLflow has no such version")
        if self.fails:
            raise MlflowUnavailable("MLflow does not answer")
        return self.tags


def looked(
    instance: dg.DagsterInstance,
    cursor: str | None = None,
    *,
    spec: ModelSpec = VISITORS,
    tags: dict[str, str] | None = None,
    fails: str = "",
) -> Any:
    sensor = drift_sensor(spec, retrain)
    assert sensor is not None
    resources = {"source": SourceResource(), "mlflow": Tags(tags=tags or {}, fails=fails)}
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources)
    return sensor.evaluate_tick(context)


@dataclass
class Trained:
    """A model whose source is there, and what its version in production was made of."""

    spec: ModelSpec
    tags: dict[str, str]

    @property
    def path(self) -> Path:
        return Path(str(self.spec.source.file))


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    path = tmp_path / "visitors.csv"
    path.write_text("age,visits\n1,2\n")
    spec = replace(VISITORS, source=Source(str(path)), code_version="file and lock")
    fingerprint = source_fingerprint(spec, SourceResource())
    return Trained(spec, {DATA_FINGERPRINT_TAG: fingerprint, CODE_VERSION_TAG: spec.code_version})


def test_a_warning_report_starts_one_training(instance: dg.DagsterInstance) -> None:
    put_in_production(instance)
    report = judged(instance, passed=False)
    first = looked(instance)
    [request] = first.run_requests
    assert (request.run_key, request.tags[REPORT_TAG]) == (f"drift {report}", report)
    again = looked(instance, first.cursor)
    assert not again.run_requests
    assert report in again.skip_message


def test_the_next_warning_report_starts_another(instance: dg.DagsterInstance) -> None:
    put_in_production(instance)
    judged(instance, passed=False)
    cursor = looked(instance).cursor
    newer = judged(instance, passed=False)
    [request] = looked(instance, cursor).run_requests
    assert request.tags[REPORT_TAG] == newer


def test_a_report_that_does_not_warn_starts_nothing(instance: dg.DagsterInstance) -> None:
    put_in_production(instance)
    assert not looked(instance).run_requests
    judged(instance, passed=False)
    judged(instance, passed=True)
    assert not looked(instance).run_requests


def test_a_report_on_a_version_that_was_replaced_starts_nothing(
    instance: dg.DagsterInstance,
) -> None:
    put_in_production(instance)
    judged(instance, passed=False)
    put_in_production(instance, PRODUCTION + 1)
    found = looked(instance)
    assert not found.run_requests
    assert f"version {PRODUCTION}, in production is {PRODUCTION + 1}" in found.skip_message


def test_nothing_is_trained_again_of_what_has_not_changed(
    instance: dg.DagsterInstance, trained: Trained
) -> None:
    put_in_production(instance)
    report = judged(instance, passed=False)
    found = looked(instance, spec=trained.spec, tags=trained.tags)
    assert not found.run_requests
    assert f"version {PRODUCTION} was trained on exactly the rows" in found.skip_message
    assert "Bring fresh rows" in found.skip_message
    assert found.cursor == report, "a query would be read again at every look"


@pytest.mark.parametrize(
    "changed", ["rows", "model file", "maybe a function", "adopted from others"]
)
def test_drift_trains_once_training_can_give_something_else(
    instance: dg.DagsterInstance, trained: Trained, changed: str
) -> None:
    put_in_production(instance)
    judged(instance, passed=False)
    spec, tags = trained.spec, trained.tags
    if changed == "rows":
        trained.path.write_text("age,visits\n3,4\n")
    elif changed == "model file":
        spec = replace(spec, code_version="another file")
    elif changed == "maybe a function":
        spec = replace(spec, candidates=(CandidateSpec(function="theirs:estimator"),))
    else:
        tags = {DATA_FINGERPRINT_TAG: FOREIGN_DATA}
    assert len(looked(instance, spec=spec, tags=tags).run_requests) == 1


@pytest.mark.parametrize(
    ("days_later", "is_trained"), [(0, False), (5, True), (400, True)], ids=str
)
def test_labels_that_became_final_are_something_new(
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days_later: int,
    is_trained: bool,
) -> None:
    """The source holds the same, and a training learns from more of it."""
    spec, data = _delayed_loans(tmp_path)
    rows = training_rows(FeastResource(state_dir=str(tmp_path)), data, spec)
    assert 0 < len(rows) < data.rows
    learned = training_data(data, spec, len(rows)).data_fingerprint
    tags = {DATA_FINGERPRINT_TAG: learned, CODE_VERSION_TAG: spec.code_version}
    for table in spec.tables:
        key, metadata = dg.AssetKey(table.key("online_features")), {FINGERPRINT_METADATA: "f"}
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=days_later)

    monkeypatch.setattr("platform_assets.monitoring.automation.datetime", Later)

    assert _has_anything_new(spec, tags, instance, SourceResource()) is is_trained


def test_training_records_which_labels_were_final(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is not the twin of one from the same source on another day."""
    spec, data = _delayed_loans(tmp_path)
    recorded = []

    def train(rows: Rows, learned: FeatureData, *_: object, **__: object) -> None:
        recorded.append((learned, training_data(data, spec, len(rows))))
        raise TrainingError("enough")

    @dg.asset(key=spec.key("online_features"))
    def online_features() -> FeatureData:
        return data

    monkeypatch.setattr("platform_assets.training.assets.train", train)
    monkeypatch.setattr(MlflowResource, "close_abandoned_runs", lambda *_: 0)
    dg.materialize(
        [online_features, training_assets(spec)[0]],
        instance=instance,
        resources={"feast": FeastResource(state_dir=str(tmp_path)), "mlflow": Tags()},
        raise_on_error=False,
    )

    [(learned, expected)] = recorded
    assert learned == expected
    assert learned.data_fingerprint != data.data_fingerprint


def _delayed_loans(folder: Path) -> tuple[ModelSpec, FeatureData]:
    """A model whose labels are final after 30 days, those of half of its rows until now."""
    drawn = tables(payments=60)
    times = sorted(at for _, _, at, *_ in drawn.payments)
    shift = datetime.now(UTC) - timedelta(days=30) - times[30]
    moved = [(c, s, at + shift, amount, bad) for c, s, at, amount, bad in drawn.payments]
    write_files(folder, replace(drawn, payments=moved))
    file = folder / "payments" / "defs.yaml"
    file.write_text(
        file.read_text().replace("{column: at}", "{column: at}\n    outcome_delay: 30d")
    )
    [spec] = read_models(folder).specs.values()
    data = write_feature_data(read_source(spec, SourceResource()), spec.own_table, folder)
    return spec, replace(data, tables=(customers_data(drawn, folder), shops_data(drawn, folder)))


@pytest.mark.parametrize(("gone", "said"), [("MLflow", "does not answer"), ("source", "exist")])
def test_a_report_is_kept_while_changes_are_unknown(
    instance: dg.DagsterInstance, trained: Trained, gone: str, said: str
) -> None:
    put_in_production(instance)
    judged(instance, passed=False)
    if gone == "source":
        trained.path.unlink()
    down = "down" if gone == "MLflow" else ""
    found = looked(instance, spec=trained.spec, tags=trained.tags, fails=down)
    assert not found.run_requests
    assert said in found.skip_message
    assert not found.cursor, "the report would be forgotten"


def test_a_version_that_mlflow_has_lost_is_trained_anew(instance: dg.DagsterInstance) -> None:
    put_in_production(instance)
    judged(instance, passed=False)
    assert len(looked(instance, fails="lost").run_requests) == 1


def test_a_report_waits_for_the_training_that_is_under_way(instance: dg.DagsterInstance) -> None:
    put_in_production(instance)
    report = judged(instance, passed=False)
    started = dg.DagsterRunStatus.STARTED
    run = instance.add_run(dg.DagsterRun(job_name=retrain.name, status=started))
    found = looked(instance)
    assert not found.run_requests
    assert "a training is under way" in found.skip_message
    assert not found.cursor, "the report would be forgotten"
    instance.report_run_failed(run)
    [request] = looked(instance, None).run_requests
    assert request.tags[REPORT_TAG] == report


def test_the_schedule_waits_for_a_version_in_production() -> None:
    schedule = drift_schedule(VISITORS, retrain)
    assert schedule is not None
    assert schedule.cron_schedule == "0 4 * * *"
    moment = datetime(2024, 1, 1, 4, tzinfo=UTC)
    # A schedule's context takes no instance that lives in memory alone, and opens another one
    # of its own, which has to be closed again.
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(instance, scheduled_execution_time=moment) as context,
    ):
        early = schedule.evaluate_tick(context)
        assert not early.run_requests
        assert "in production yet" in str(early.skip_message)
        put_in_production(instance)
        assert len(schedule.evaluate_tick(context).run_requests or ()) == 1


def test_a_model_that_wants_nothing_gets_nothing() -> None:
    assert drift_schedule(without_automation(), retrain) is None
    assert drift_sensor(without_automation(), retrain) is None


def test_both_run_in_a_repository() -> None:
    schedule, sensor = drift_schedule(VISITORS, retrain), drift_sensor(VISITORS, retrain)
    assert schedule is not None
    assert sensor is not None
    definitions = dg.Definitions(
        jobs=[retrain],
        schedules=[schedule],
        sensors=[sensor],
        resources={"source": SourceResource(), "mlflow": Tags()},
    )
    dg.Definitions.validate_loadable(definitions)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


@pytest.mark.slow
def test_the_definitions_import_nothing_heavy() -> None:
    code = (
        "import sys, platform_assets.monitoring.automation, platform_assets.notifications\n"
        "heavy = {'pandas', 'pyarrow', 'matplotlib', 'mlflow', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
