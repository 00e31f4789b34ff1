"""`live_quality`: what versions are worth by their outcomes, and what is shown of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from platform_assets.automation import quality_job
from platform_assets.model_spec import (
    Evaluation,
    JoinKey,
    ModelSpec,
    Outcomes,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.quality.assets import quality_assets
from platform_assets.quality.automation import quality_schedule
from platform_assets.quality.checks import find_shortfalls
from platform_assets.quality.matching import match
from platform_assets.quality.measuring import measure
from platform_assets.quality.metadata import read_history
from platform_assets.quality.records import (
    ANY_TIME,
    FIXED_SAMPLE,
    OfflineEstimate,
    OutcomeCounts,
    QualityReport,
    VersionQuality,
)
from platform_assets.resources.failures import RETRIES
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import BoundedMean, DType, Trials
from tests.support.drifting import PRODUCTION, VISITORS, StubMlflow, put_in_production
from tests.support.prediction_log import BEGIN, Logged, Sent, write_log, write_outcomes

DAY = timedelta(days=1)
CLASSES = (False, True)


def _write(root: Path, count: int = 200, day: int = 0, version: int = PRODUCTION) -> None:
    """Predictions `true`, three of four of them right; one row lacks its probabilities."""
    at = BEGIN + day * DAY
    log = [
        Logged(
            id=f"{day}-{n}",
            at=at + timedelta(minutes=n),
            answer="True" if n % 2 else "true",
            version=version,
            score=0.6 + n % 7 / 100,
            probabilities=None if n == 0 else [0.4 - n % 7 / 100, 0.6 + n % 7 / 100],
        )
        for n in range(count)
    ]
    write_log(root, "visitors", log, f"d{day}")
    sent = [
        Sent(id=one.id, value="false" if n % 4 == 0 else "true", at=one.at)
        for n, one in enumerate(log)
    ]
    write_outcomes(root, "visitors", sent, f"d{day}")


def _measured(root: Path, spec: ModelSpec, scale: float = math.nan) -> VersionQuality:
    with match(root, spec, since=BEGIN, until=BEGIN + DAY, now=BEGIN + 9 * DAY) as found:
        return measure(found, spec, PRODUCTION, classes=CLASSES, scale=scale)


def _with_metric(name: str) -> ModelSpec:
    return replace(VISITORS, evaluation=Evaluation(metric=name, split=Split.ENTITY))


def test_accuracy_has_bounds_that_hold_while_they_are_watched(tmp_path: Path) -> None:
    _write(tmp_path)

    found = _measured(tmp_path, VISITORS)

    bounds = Trials(150, 200).bounds(0.05)
    assert found == VersionQuality(
        PRODUCTION, 200, 0.75, bounds.low, bounds.high, ANY_TIME, measured_rows=200
    )


@pytest.mark.parametrize("metric", ["log_loss", "roc_auc", "balanced_accuracy"])
def test_other_metrics_say_that_their_bounds_are_of_a_fixed_sample(
    tmp_path: Path, metric: str
) -> None:
    _write(tmp_path)

    found = _measured(tmp_path, _with_metric(metric))

    assert found.bounds == FIXED_SAMPLE
    assert found.low < found.value < found.high
    assert found.rows == 200
    needs_probabilities = metric != "balanced_accuracy"
    assert found.measured_rows == (199 if needs_probabilities else 200)
    if metric == "log_loss":
        n = np.arange(1, 200)
        stated = np.where(n % 4 == 0, 0.4 - n % 7 / 100, 0.6 + n % 7 / 100)
        assert found.value == pytest.approx(-np.log(stated).mean())


def test_mean_absolute_error_is_bounded_by_the_width_of_held_out_values(tmp_path: Path) -> None:
    spec = replace(
        VISITORS,
        evaluation=Evaluation(metric="mean_absolute_error", split=Split.ENTITY),
        task=Task.REGRESSION,
        target=Target("days", type=DType.FP64),
        candidates=(),
    )
    errors = [0.5, 1.5, 2.0, 40.0]
    log = [Logged(id=f"p{n}", version=PRODUCTION, score=3.0) for n in range(4)]
    write_log(tmp_path, "visitors", log)
    sent = [Sent(id=f"p{n}", value=str(3 + one), at=BEGIN) for n, one in enumerate(errors)]
    write_outcomes(tmp_path, "visitors", sent)

    found, unbounded = (_measured(tmp_path, spec, scale) for scale in (10.0, math.nan))

    mean = BoundedMean(4, 14.0, 0.25 + 2.25 + 4 + 100, 0.0, 10.0)
    assert (found.value, found.high, found.bounds) == (3.5, mean.bounds(0.05).high, ANY_TIME)
    assert (unbounded.value, unbounded.bounds) == (11.0, FIXED_SAMPLE)


@pytest.mark.parametrize("metric", ["mean_absolute_error", "root_mean_squared_error", "r2"])
def test_answers_that_are_not_finite_are_counted_and_break_the_promise(
    tmp_path: Path, metric: str
) -> None:
    spec = replace(
        VISITORS,
        evaluation=Evaluation(metric=metric, split=Split.ENTITY),
        task=Task.REGRESSION,
        target=Target("days", type=DType.FP64),
        candidates=(),
    )
    answers = [3.0 + n % 5 for n in range(40)] + [math.nan, math.inf]
    log = [Logged(id=f"p{n}", version=PRODUCTION, score=one) for n, one in enumerate(answers)]
    write_log(tmp_path, "visitors", log)
    sent = [Sent(id=f"p{n}", value=str(3.5 + n % 5), at=BEGIN) for n in range(len(log))]
    write_outcomes(tmp_path, "visitors", sent)

    found = _measured(tmp_path, spec, 10.0)

    assert (found.rows, found.measured_rows, found.not_finite) == (42, 40, 2)
    assert found.low <= found.value <= found.high
    assert all(map(math.isfinite, (found.low, found.value, found.high)))
    report = replace(_report(0.9, 0.8, 1.0), versions=(found,), floor=-math.inf)
    assert "answered 2 of 42 rows with a NaN or an infinity" in find_shortfalls(report)[0]


def test_probabilities_that_are_not_finite_are_counted_apart(tmp_path: Path) -> None:
    log = [
        Logged(
            id=f"p{n}",
            version=PRODUCTION,
            answer="true",
            probabilities=[0.4, math.nan if n == 7 else 0.6],
        )
        for n in range(40)
    ]
    write_log(tmp_path, "visitors", log)
    sent = [Sent(id=f"p{n}", value="true" if n % 3 else "false", at=BEGIN) for n in range(40)]
    write_outcomes(tmp_path, "visitors", sent)

    found = _measured(tmp_path, _with_metric("log_loss"))

    assert (found.measured_rows, found.not_finite) == (39, 1)
    assert math.isfinite(found.value)


def _report(
    value: float, low: float, high: float, *, offline: OfflineEstimate | None = None
) -> QualityReport:
    version = VersionQuality(3, 100, value, low, high, ANY_TIME, 100)
    estimate = {} if offline is None else {3: offline}
    counts = OutcomeCounts(predictions=100, matured=100, answered=100)
    return QualityReport("m", "2026-03-01", "accuracy", True, 0.8, counts, (version,), estimate)


def test_promise_is_broken_only_beyond_doubt() -> None:
    estimate = OfflineEstimate(0.9, 0.88, 0.92, math.nan)

    assert find_shortfalls(_report(0.79, 0.7, 0.85)) == []
    assert find_shortfalls(_report(0.7, 0.6, 0.79)) == [
        "version 3: accuracy is at most 0.79, and the floor is 0.8"
    ]
    assert find_shortfalls(_report(0.85, 0.8, 0.89, offline=estimate)) == []
    [said] = find_shortfalls(_report(0.84, 0.81, 0.87, offline=estimate))
    assert "held-out rows gave 0.9 (0.88 to 0.92)" in said
    assert find_shortfalls(_report(math.nan, -math.inf, math.inf, offline=estimate)) == []


def test_lower_metric_is_judged_by_its_lower_bound() -> None:
    report = replace(_report(0.5, 0.4, 0.6), metric="log_loss", higher_is_better=False)

    assert find_shortfalls(replace(report, floor=0.45)) == []
    assert find_shortfalls(replace(report, floor=0.39)) == [
        "version 3: log_loss is at least 0.4, and the floor is 0.39"
    ]


def _materialize(
    root: Path,
    instance: dg.DagsterInstance,
    day: str = "2026-03-01",
    spec: ModelSpec = VISITORS,
    *,
    mlflow: StubMlflow | None = None,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        quality_assets(spec),
        partition_key=day,
        instance=instance,
        raise_on_error=False,
        resources={
            "mlflow": mlflow or StubMlflow(),
            "samples": SamplesFolder(root=str(root)),
            "source": SourceResource(),
        },
    )


def _shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = result.asset_materializations_for_node("visitors__live_quality")
    return {name: value.value for name, value in event.metadata.items()}


def test_asset_measures_a_day_and_shows_the_days_before_with_the_switches(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        put_in_production(instance)
        _write(tmp_path)
        _write(tmp_path, day=1)
        first = _materialize(tmp_path, instance)
        second = _shown(_materialize(tmp_path, instance, "2026-03-02"))
        [check] = first.get_asset_check_evaluations()
        key = dg.AssetKey(VISITORS.key("live_quality"))
        before = read_history(instance, key, "2026-03-02")

    shown = _shown(first)
    assert [(one.day, one.version, one.value) for one in before] == [("2026-03-01", 7, 0.75)]
    assert shown["summary"] == (
        f"version {PRODUCTION}: accuracy 0.75 (0.626 to 0.8513) on 200 rows; "
        "100.0% of 200 matured predictions have an outcome"
    )
    assert (shown["coverage"], shown["matured"], shown["unmatched"]) == (1.0, 200, 0)
    assert "data:image/png" in shown["picture"]
    assert second["picture"] != shown["picture"], "it shows two days"
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "held-out rows gave 1" in str(check.description)


def test_day_is_not_measured_while_mlflow_is_away(tmp_path: Path) -> None:
    _write(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = _materialize(tmp_path, instance, mlflow=StubMlflow(down=True))

    assert result.asset_materializations_for_node("visitors__live_quality") == []
    tried = [one for one in result.all_events if one.is_step_up_for_retry]
    [event] = [one for one in result.all_events if one.is_step_failure]
    assert len(tried) == RETRIES
    said = str(event.step_failure_data.user_failure_data)
    assert "MLflow at http://127.0.0.1:9 does not answer" in said


def test_day_is_measured_without_the_run_of_a_version(tmp_path: Path) -> None:
    _write(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        result = _materialize(tmp_path, instance, mlflow=StubMlflow(gone=True))
        [check] = result.get_asset_check_evaluations()

    assert check.passed
    [line] = _shown(result)["versions"].records
    assert "cannot fetch anything" in str(line.data["held-out rows"])


def test_rows_that_cannot_be_measured_are_a_shortfall(tmp_path: Path) -> None:
    _write(tmp_path)
    spec = _with_metric("balanced_accuracy")
    with match(tmp_path, spec, since=BEGIN, until=BEGIN + DAY, now=BEGIN + 9 * DAY) as found:
        measured = measure(found, spec, PRODUCTION, classes=(), scale=0.0)
    report = replace(_report(0.9, 0.8, 1.0), versions=(measured,), offline={PRODUCTION: "gone"})

    [said] = find_shortfalls(report)

    assert "cannot be measured on 200 rows with an outcome" in said
    assert "list `classes` in the model file (gone)" in said


def test_day_without_log_is_not_judged(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = _materialize(tmp_path, instance)
        [check] = result.get_asset_check_evaluations()

    assert check.passed
    assert check.description == "no prediction of 2026-03-01 is in the log"
    assert check.metadata["judged"].value is False


def test_missing_source_of_outcomes_fails_with_what_to_do(tmp_path: Path) -> None:
    outcomes = Outcomes(source=Source(file=str(tmp_path / "outcomes.csv")))
    spec = replace(VISITORS, join_key=JoinKey("visitor"), outcomes=outcomes)
    with dg.DagsterInstance.ephemeral() as instance:
        result = _materialize(tmp_path, instance, spec=spec)

    [event] = [one for one in result.all_events if one.is_step_failure]
    said = str(event.step_failure_data.user_failure_data)
    assert "outcomes.csv does not exist" in said
    assert "What to do" in said


@pytest.mark.parametrize(
    ("outcomes", "days"),
    [
        (None, ["2026-03-09"]),
        (Outcomes(outcome_delay=3 * DAY), ["2026-03-09", "2026-03-06"]),
    ],
)
def test_schedule_measures_yesterday_and_the_day_that_is_matured(
    outcomes: Outcomes | None, days: Sequence[str]
) -> None:
    spec = replace(VISITORS, outcomes=outcomes)
    job = quality_job(spec)
    schedule = quality_schedule(spec, job)
    resources = {
        "mlflow": StubMlflow(),
        "samples": SamplesFolder(root="unused"),
        "source": SourceResource(),
    }
    repository = dg.Definitions(
        quality_assets(spec), [schedule], jobs=[job], resources=resources
    ).get_repository_def()
    moment = datetime(2026, 3, 10, 4, 30, tzinfo=UTC)
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(
            instance, scheduled_execution_time=moment, repository_def=repository
        ) as context,
    ):
        ticked = schedule.evaluate_tick(context)

    assert [one.partition_key for one in ticked.run_requests or ()] == days
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
