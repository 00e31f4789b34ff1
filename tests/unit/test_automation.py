"""When a model's sensors and schedules start something, and when they do not."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from platform_assets import attempts, automation
from platform_assets.features.source import FINGERPRINT_METADATA, source_fingerprint
from platform_assets.features.sources import files
from platform_assets.features.sources.files import FileReader
from platform_assets.features.sources.sql import SqlReader
from platform_assets.model_spec import AutomationSpec, Source, SqlQuery
from platform_assets.monitoring.automation import drift_schedule
from platform_assets.resources.failures import failure
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import SIGNATURE_DIGEST_TAG
from tests.support.models import IRIS

CHAIN = automation.chain_job(IRIS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "source.csv"
    path.write_text("a,b\n1,2\n")
    return path


def asked(instance: dg.DagsterInstance, path: Path) -> Any:
    source = SourceResource(variables={"SOURCE_PATH": str(path)})
    context = dg.build_sensor_context(instance=instance, resources={"source": source})
    return decision(automation.new_data_sensor(IRIS, CHAIN)(context))


def decision(result: Any) -> Any:
    """The run that a tick requests, never more than one, or why it requests none."""
    if isinstance(result, dg.SkipReason):
        return result
    requests = result.run_requests or []
    if not requests:
        assert result.skip_reason is not None
        return result.skip_reason
    (request,) = requests
    assert result.skip_reason is None
    return request


class Ticks:
    """The sensor of one source, from tick to tick; `readings` counts how often rows were read."""

    def __init__(self, instance: dg.DagsterInstance, source: Source) -> None:
        self._instance, self._spec = instance, replace(IRIS, source=source)
        self.cursor: str | None = None
        self.readings = 0
        self.observed: list[str] = []

    def __call__(self) -> Any:
        context = dg.build_sensor_context(
            self._instance, cursor=self.cursor, resources={"source": SourceResource()}
        )
        result: Any = automation.new_data_sensor(self._spec, CHAIN)(context)
        if isinstance(result, dg.SensorResult):
            self.cursor = result.cursor
            events: Any = result.asset_events
            self.observed += [event.tags["dagster/data_version"] for event in events]
        return decision(result)

    def counted(self, monkeypatch: pytest.MonkeyPatch, reader: Any) -> Ticks:
        fingerprint = reader.fingerprint

        def noted(one: Any) -> str:
            self.readings += 1
            return str(fingerprint(one))

        monkeypatch.setattr(reader, "fingerprint", noted)
        return self


def test_files_are_read_only_when_their_size_or_time_differs(
    instance: dg.DagsterInstance, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = Ticks(instance, Source(str(path))).counted(monkeypatch, FileReader)
    first, young = tick(), tick()
    assert tick.readings == 2, "a file as young as this one may change without its time changing"
    monkeypatch.setattr(files, "_SETTLED_S", -1e9)
    settled, untouched = tick(), tick()
    assert tick.readings == 3
    assert first.run_key == young.run_key == settled.run_key == untouched.run_key
    os.utime(path, (1, 1))
    assert tick().run_key == first.run_key
    assert tick.readings == 4
    path.write_text("a,b\n1,3\n")
    assert tick().run_key != first.run_key
    assert len(tick.observed) == len(set(tick.observed)) == 2, "each content is observed once"


def test_a_query_is_read_only_when_what_tells_of_changes_answers_otherwise(
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Callable[[float], None],
) -> None:
    columns = ("entity_id", "event_timestamp", *IRIS.feature_names, "species")
    row = [1, "2024-01-01T00:00:00Z", 1.0, 2.0, 3.0, 4.0, 0]
    database = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    database.execute(f"CREATE TABLE t ({', '.join(columns)}, changed)")
    database.execute(f"INSERT INTO t VALUES ({', '.join('?' * 8)})", [*row, 1])
    changed = "SELECT max(changed), count(*) FROM t"
    query = SqlQuery(f"sqlite:///{tmp_path / 'a.db'}", "SELECT * FROM t", changed=changed)
    tick = Ticks(instance, Source(sql=query)).counted(monkeypatch, SqlReader)
    first, again = tick(), tick()
    assert (first.run_key, tick.readings) == (again.run_key, 1)
    away = failure("MLflow is away", "wait", allow_retries=True)
    run_on(instance, first, away)
    assert isinstance(tick(), dg.SkipReason)
    clock(601)
    retried = tick()
    assert tick.readings == 1
    assert retried.tags[attempts.CONTENT_TAG] == first.tags[attempts.CONTENT_TAG]
    database.execute("UPDATE t SET sepal_length = 1.5, changed = 2")
    database.close()
    assert tick().tags[attempts.CONTENT_TAG] != first.tags[attempts.CONTENT_TAG]
    assert tick.readings == 2


def test_another_model_file_reads_the_source_again(
    instance: dg.DagsterInstance, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SETTLED_S", -1e9)
    tick = Ticks(instance, Source(str(path))).counted(monkeypatch, FileReader)
    tick()
    tick._spec = replace(tick._spec, code_version="another")
    tick()
    assert tick.readings == 2


@pytest.mark.parametrize(
    ("source", "seconds"),
    [
        (Source("a.csv"), 60),
        (Source(sql=SqlQuery("a://b", "SELECT 1")), 3600),
        (Source(sql=SqlQuery("a://b", "SELECT 1", changed="SELECT 2")), 60),
        (Source("a.csv", check_every=timedelta(minutes=5)), 300),
    ],
)
def test_a_source_is_looked_at_as_often_as_its_model_file_says(
    source: Source, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = automation.new_data_sensor(replace(IRIS, source=source), CHAIN)
    assert sensor.minimum_interval_seconds == seconds
    monkeypatch.setenv("SENSOR_SECONDS", "7")
    sensor = automation.new_data_sensor(replace(IRIS, source=source), CHAIN)
    assert sensor.minimum_interval_seconds == (300 if source.check_every else 7)


def materialized(instance: dg.DagsterInstance, fingerprint: str) -> None:
    key = dg.AssetKey(IRIS.key("features"))
    metadata = {FINGERPRINT_METADATA: fingerprint}
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))


def test_new_content_starts_one_run(instance: dg.DagsterInstance, path: Path) -> None:
    first, again = asked(instance, path), asked(instance, path)
    assert isinstance(first, dg.RunRequest)
    assert first.run_key == again.run_key
    materialized(instance, "other content")
    assert isinstance(asked(instance, path), dg.RunRequest)


def test_content_that_the_features_were_made_of_starts_nothing(
    instance: dg.DagsterInstance, path: Path
) -> None:
    source = SourceResource(variables={"SOURCE_PATH": str(path)})
    materialized(instance, source_fingerprint(IRIS, source))
    os.utime(path, (1, 1))
    assert isinstance(asked(instance, path), dg.SkipReason)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass for the sensor."""

    def pass_by(seconds: float) -> None:
        now = time.time() + seconds
        monkeypatch.setattr("platform_assets.attempts.time.time", lambda: now)

    return pass_by


def run_on(
    instance: dg.DagsterInstance,
    request: dg.RunRequest,
    ends: Exception | None,
    *,
    reaches_features: bool = True,
) -> dg.DagsterRun:
    """Execute what a request asks for, with an end like this behind `features`."""
    fingerprint = str(request.tags.get(attempts.CONTENT_TAG, "none"))

    @dg.op
    def work() -> Iterator[Any]:
        if reaches_features:
            key, metadata = dg.AssetKey(IRIS.key("features")), {FINGERPRINT_METADATA: fingerprint}
            yield dg.AssetMaterialization(key, metadata=metadata)
        if ends is not None:
            raise ends
        yield dg.Output(None)

    @dg.job
    def chain() -> None:
        work()

    result = chain.execute_in_process(instance=instance, tags=request.tags, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


@pytest.mark.parametrize("reaches_features", [True, False])
def test_content_whose_run_a_server_s_absence_ended_is_tried_again_later_and_later(
    instance: dg.DagsterInstance,
    path: Path,
    clock: Callable[[float], None],
    reaches_features: bool,
) -> None:
    away = failure("MLflow is away", "wait", allow_retries=True)
    first = asked(instance, path)
    ended = run_on(instance, first, away, reaches_features=reaches_features)
    assert "a server was away" in str(asked(instance, path).skip_message)
    clock(601)
    second = asked(instance, path)
    assert ended.run_id in second.run_key
    run_on(instance, second, away, reaches_features=reaches_features)
    clock(601)
    assert isinstance(asked(instance, path), dg.SkipReason)
    clock(1201)
    third = asked(instance, path)
    assert len({first.run_key, second.run_key, third.run_key}) == 3
    run_on(instance, third, None)
    clock(90_000)
    assert isinstance(asked(instance, path), dg.SkipReason)


@pytest.mark.parametrize(
    "ends", [None, failure("a label is missing", "add it"), ValueError("a mistake")]
)
def test_content_whose_run_ended_for_good_is_not_tried_again(
    instance: dg.DagsterInstance,
    path: Path,
    clock: Callable[[float], None],
    ends: Exception | None,
) -> None:
    run_on(instance, asked(instance, path), ends)
    clock(90_000)
    assert isinstance(asked(instance, path), dg.SkipReason)


def test_a_run_that_a_person_continued_decides(
    instance: dg.DagsterInstance, path: Path, clock: Callable[[float], None]
) -> None:
    away = failure("MLflow is away", "wait", allow_retries=True)
    ended = run_on(instance, asked(instance, path), away)
    again = dg.DagsterRun(
        job_name="chain",
        root_run_id=ended.run_id,
        parent_run_id=ended.run_id,
        tags={"dagster/root_run_id": ended.run_id, "dagster/parent_run_id": ended.run_id},
        status=dg.DagsterRunStatus.STARTED,
    )
    instance.add_run(again)
    clock(90_000)
    assert "under way" in str(asked(instance, path).skip_message)
    instance.report_run_canceled(again)
    assert isinstance(asked(instance, path), dg.SkipReason)


def test_a_missing_source_starts_nothing(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    skipped = asked(instance, tmp_path / "none.csv")
    assert isinstance(skipped, dg.SkipReason)
    assert "cannot be read" in str(skipped.skip_message)


class Registry(MlflowResource):
    """An MLflow that lists what the test says."""

    tracking_uri: str = "http://127.0.0.1:9"
    listed: list[Any] = Field(default_factory=list)
    down: bool = False

    def versions(self, model_name: str) -> list[VersionEntry]:
        if self.down:
            raise MlflowUnavailable("MLflow does not answer")
        return [
            VersionEntry(version, f"run-{version}", {SIGNATURE_DIGEST_TAG: "0"} if own else {})
            for version, own in self.listed
        ]


def looked(instance: dg.DagsterInstance, **registry: Any) -> Any:
    sensor = automation.foreign_version_sensor(IRIS, automation.adoption_job(IRIS))
    return sensor(
        dg.build_sensor_context(instance=instance, resources={"mlflow": Registry(**registry)})
    )


def test_a_version_that_others_registered_enters_the_chain_once(
    instance: dg.DagsterInstance, clock: Callable[[float], None]
) -> None:
    request = looked(instance, listed=[[1, True], [2, False]])
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "version 2"
    config = request.run_config["ops"]["best_model__onnx_model"]["config"]
    assert config == {"adopt_version": 2}
    run_on(instance, request, failure("it is not this model's", "correct it"))
    clock(90_000)
    again = looked(instance, listed=[[1, True], [2, False]])
    assert "the newest run was made of version 2" in str(again.skip_message)
    assert looked(instance, listed=[[2, False], [3, False]]).run_key == "version 3"


def test_version_whose_run_a_server_s_absence_ended_is_taken_in_later(
    instance: dg.DagsterInstance, clock: Callable[[float], None]
) -> None:
    request = looked(instance, listed=[[2, False]])
    ended = run_on(instance, request, failure("MLflow is away", "wait", allow_retries=True))
    assert "a server was away" in str(looked(instance, listed=[[2, False]]).skip_message)
    clock(601)
    again = looked(instance, listed=[[2, False]])
    assert again.run_key == f"version 2 after {ended.run_id}"
    assert again.run_config == request.run_config


@pytest.mark.parametrize("listed", [[], [[1, False], [2, True]]])
def test_a_version_of_this_pipeline_starts_nothing(
    instance: dg.DagsterInstance, listed: list[Any]
) -> None:
    assert isinstance(looked(instance, listed=listed), dg.SkipReason)


def test_without_mlflow_nothing_starts(instance: dg.DagsterInstance) -> None:
    assert "cannot be asked" in str(looked(instance, down=True).skip_message)


def test_what_moves_production_runs_by_itself_only_when_the_model_file_says_so() -> None:
    stopped = dg.DefaultSensorStatus.STOPPED
    assert automation.new_data_sensor(IRIS, CHAIN).default_status is stopped
    wanted = replace(IRIS, automation=AutomationSpec(on_new_data=True))
    running = automation.new_data_sensor(wanted, CHAIN).default_status
    assert running is dg.DefaultSensorStatus.RUNNING
    assert automation.retraining_schedules(IRIS, CHAIN) == []
    timed = replace(IRIS, automation=AutomationSpec(schedule="0 3 * * *"))
    [schedule] = automation.retraining_schedules(timed, CHAIN)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_schedules_follow_the_clock_of_their_time_zone() -> None:
    times = AutomationSpec(
        schedule="0 3 * * *", drift_schedule="0 4 * * *", timezone="Europe/Zurich"
    )
    spec = replace(IRIS, automation=times)
    [schedule] = automation.retraining_schedules(spec, CHAIN)
    report = drift_schedule(spec, CHAIN)
    assert report is not None
    assert (schedule.execution_timezone, report.execution_timezone) == ("Europe/Zurich",) * 2


def test_every_asset_says_what_its_model_is_for() -> None:
    from platform_assets import model_definitions
    from platform_assets.shared_definitions import resources

    built = model_definitions.build(replace(IRIS, description="Which iris it is."))
    for spec in dg.Definitions.merge(built, resources()).resolve_all_asset_specs():
        what, what_for = (spec.description or "").rsplit("\n\n", 1)
        assert what
        assert what_for == "Which iris it is."
        assert spec.code_version == IRIS.code_version


def test_the_switch_waits_for_every_blocking_check_where_dagster_runs_it_by_itself() -> None:
    from platform_assets import model_definitions
    from platform_assets.serving.promotion import GATES
    from platform_assets.shared_definitions import resources

    state, switch = (dg.AssetKey(IRIS.key(n)) for n in ("triton_serving_state", "gateway_reload"))
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = dg.Definitions.merge(model_definitions.build(IRIS), resources())

        def requested(cursor: Any) -> Any:
            return dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)

        def judged(gate: str, passed: bool) -> None:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    state, gate, passed, {}, severity=dg.AssetCheckSeverity.ERROR
                )
            )

        result = requested(None)
        instance.report_runless_asset_event(dg.AssetMaterialization(state))
        for gate in GATES[1:]:
            judged(gate, True)
        result = requested(result.cursor)
        assert result.get_num_requested(switch) == 0, "a gate never ran"
        judged(GATES[0], False)
        result = requested(result.cursor)
        assert result.get_num_requested(switch) == 0, "a gate failed"
        judged(GATES[0], True)
        assert requested(result.cursor).get_num_requested(switch) == 1
