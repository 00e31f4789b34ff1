"""The schedule of the drift report, and the sensor that retrains on drift."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from platform_assets.features.source import SourceError, source_fingerprint
from platform_assets.features.table_content import TableNotReadError, current_content
from platform_assets.intervals import sensor_seconds
from platform_assets.model_spec import ModelSpec
from platform_assets.monitoring.assets import VERSION_METADATA, production_version
from platform_assets.monitoring.checks import JUDGED, drift_check_key
from platform_assets.resources.mlflow import MlflowResource, RegistryError, RegistryNotFound
from platform_assets.resources.source import SourceResource
from platform_assets.serving.turns import UNDER_WAY
from serving_gateway.contract import CODE_VERSION_TAG, DATA_FINGERPRINT_TAG

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

REPORT_TAG: Final = "serving/drift_report"
"""Tag of a run that was started because of drift: the run that made the report."""


def drift_schedule(spec: ModelSpec, job: Job) -> dg.ScheduleDefinition | None:
    """Return the schedule of `job`, which makes a model's drift report and check, if it has one."""
    cron = spec.automation.drift_schedule
    if cron is None:
        return None

    @dg.schedule(
        name=f"{spec.model_name}__drift_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=spec.automation.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Compares what {spec.model_name} answered with its training set: {cron}, "
        f"{spec.automation.timezone}.",
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if production_version(context.instance, spec) is None:
            return dg.SkipReason(f"no version of {spec.model_name} is in production yet")
        return dg.RunRequest()

    return scheduled


def drift_sensor(spec: ModelSpec, retrain_job: Job) -> dg.SensorDefinition | None:
    """Return the sensor that retrains on drift; None if the model file does not ask for it.

    A report starts at most one run, and none while the chain is running anyway. A report on a
    version that is no longer in production starts none: its successor may be the answer to that
    very drift. Nor does it if nothing has changed since the version in production was trained:
    the same rows, model file and packages would give the same graph again.
    """
    if not spec.automation.on_drift:
        return None

    @dg.sensor(
        name=f"{spec.model_name}__drift_sensor",
        job=retrain_job,
        minimum_interval_seconds=sensor_seconds(60),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Trains {spec.model_name} again when its newest drift report warns and the source "
            "or the model file has changed, or labels have become final, since the version in "
            "production was trained."
        ),
    )
    def on_drift(
        context: dg.SensorEvaluationContext, source: SourceResource, mlflow: MlflowResource
    ) -> dg.SensorResult | dg.SkipReason:
        newest = _newest_verdict(context.instance, spec)
        if newest is None:
            return dg.SkipReason("no drift report was judged yet")
        report, evaluation = newest
        if report == context.cursor:
            return dg.SkipReason(f"the report of run {report} was looked at already")
        if calm := _why_no_drift(evaluation):
            return dg.SensorResult(skip_reason=calm, cursor=report)
        trainings = dg.RunsFilter(job_name=retrain_job.name, statuses=list(UNDER_WAY))
        if context.instance.get_runs(trainings, limit=1):
            # The cursor is kept: the result of that training decides about the report.
            return dg.SkipReason(f"the report of run {report} warns, and a training is under way")
        try:
            needless = _why_nothing_new(spec, evaluation, context.instance, source, mlflow)
        except (SourceError, RegistryError) as error:
            # The cursor is kept here, too: a training would need the server that is unavailable.
            return dg.SkipReason(f"the report of run {report} warns, but {error}")
        request = dg.RunRequest(run_key=f"drift {report}", tags={REPORT_TAG: report})
        wanted = [] if needless else [request]
        return dg.SensorResult(run_requests=wanted, skip_reason=needless, cursor=report)

    return on_drift


def _why_no_drift(evaluation: dg.AssetCheckEvaluation) -> str | None:
    """Say why a report requires no training; None if it warns of drift."""
    judged = evaluation.metadata.get(JUDGED)
    if judged is not None and not judged.value:
        return "the newest report had nothing to compare with"
    return "the newest report does not warn" if evaluation.passed else None


def _why_nothing_new(
    spec: ModelSpec,
    evaluation: dg.AssetCheckEvaluation,
    instance: dg.DagsterInstance,
    source: SourceResource,
    mlflow: MlflowResource,
) -> str | None:
    """Say why retraining would change nothing about this warning; None if it may."""
    judged, now = _version(evaluation), production_version(instance, spec)
    if now is None or judged != now:
        return f"the report is on version {judged}, in production is {now}"
    try:
        tags = mlflow.version_tags(spec.model_name, now)
    except RegistryNotFound:
        return None
    if _has_anything_new(spec, tags, instance, source):
        return None
    return (
        f"the newest report warns, but version {now} was trained on exactly the rows that the "
        "source has to learn from, by this model file and these packages: training again would "
        "give the same. Bring fresh rows into the source; the next report that warns then trains "
        "on them"
    )


def _has_anything_new(
    spec: ModelSpec,
    tags: Mapping[str, str],
    instance: dg.DagsterInstance,
    source: SourceResource,
) -> bool:
    """Whether a training would use different rows or code than the version with `tags`."""
    if tags.get(CODE_VERSION_TAG) != spec.code_version:
        return True
    if any(candidate.own_code is not None for candidate in spec.candidates):
        return True  # the function's code may have changed
    try:
        # Last: cached for a file, but for a query, or if labels become final with time, it reads
        # all rows.
        content = current_content(spec, _own_content(spec, source), instance)
    except TableNotReadError:
        return True  # the chain will say what to run
    return tags.get(DATA_FINGERPRINT_TAG) != content


def _own_content(spec: ModelSpec, source: SourceResource) -> str:
    """Return the fingerprint of the source's rows that a training would learn from now."""
    delay = spec.labels.outcome_delay if spec.labels else None
    if delay is None:
        return source_fingerprint(spec, source)
    # Imported here, since it imports pyarrow.
    from platform_assets.features.reading import read_final_fingerprint

    return read_final_fingerprint(spec, source, datetime.now(UTC) - delay)


def _newest_verdict(
    instance: dg.DagsterInstance, spec: ModelSpec
) -> tuple[str, dg.AssetCheckEvaluation] | None:
    """Return the newest evaluation of the drift check, and the run that made it."""
    record = instance.get_latest_asset_check_evaluation_record(drift_check_key(spec))
    # A queued run has a record without a verdict.
    evaluation = record.event.asset_check_evaluation if record and record.event else None
    return (record.run_id, evaluation) if record and evaluation else None


def _version(evaluation: dg.AssetCheckEvaluation) -> int | None:
    version = evaluation.metadata.get(VERSION_METADATA)
    return None if version is None else int(str(version.value))
