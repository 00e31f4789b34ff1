"""When drift is looked for, and when it starts a training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from platform_assets.monitoring.automation import REPORT_TAG, drift_schedule, drift_sensor
from platform_assets.monitoring.checks import drift_check_key
from tests.drifting import PRODUCTION, VISITORS, put_in_production, without_automation


@dg.op
def nothing() -> None:
    pass


@dg.job
def retrain() -> None:
    nothing()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


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


def looked(instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    sensor = drift_sensor(VISITORS, retrain)
    assert sensor is not None
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    return sensor.evaluate_tick(context)


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
    definitions = dg.Definitions(jobs=[retrain], schedules=[schedule], sensors=[sensor])
    dg.Definitions.validate_loadable(definitions)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_the_definitions_import_nothing_heavy() -> None:
    code = (
        "import sys, platform_assets.monitoring.automation, platform_assets.notifications\n"
        "heavy = {'pandas', 'pyarrow', 'matplotlib', 'feature_engine', 'mlflow', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
