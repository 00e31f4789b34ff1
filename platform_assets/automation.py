"""The jobs, schedules and sensors of one model or feature table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import dagster as dg

from platform_assets.attempts import request_adoption, request_run
from platform_assets.export.adoption import is_foreign
from platform_assets.features.source import SourceError, current_fingerprint
from platform_assets.features.source_asset import source_event
from platform_assets.features.table_content import TableNotReadError, current_content
from platform_assets.intervals import sensor_seconds
from platform_assets.model_spec import (
    CHAIN,
    TABLE_ASSETS,
    FeatureTableSpec,
    ModelSpec,
    Source,
    SourceSpec,
    table_job_name,
)
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.source import SourceResource
from platform_assets.run_tags import (
    MODEL_TAG,
    chain_tags,
    report_tags,
    scoring_tags,
    urgent_tags,
)

_SWITCH: Final = "gateway_reload"


def chain_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job from raw data to production, or to the gates before a release."""
    return _job(spec, "chain", _assets_before_release(spec), f"raw data to {_end(spec)}")


def table_job(spec: FeatureTableSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job that reads a feature table and updates the online store."""
    return dg.define_asset_job(
        table_job_name(spec.name),
        selection=dg.AssetSelection.assets(
            *map(spec.key, TABLE_ASSETS[-1:] if spec.is_external else TABLE_ASSETS)
        ),
        tags=chain_tags(spec.name),
        description=f"{spec.name}: from the source to the online store.",
    )


def table_schedules(
    spec: FeatureTableSpec, job: dg.UnresolvedAssetJobDefinition
) -> list[dg.ScheduleDefinition]:
    """Build the schedule that a table's file asks for, if any."""
    what = "reads the table at the times of its file"
    return _schedules(f"{spec.name}_reading", spec, job, spec.schedule, "UTC", what)


def serving_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job from the exported version to production."""
    what = f"the exported version, packaged and loaded, to {_end(spec)}"
    return _job(spec, "serving", _assets_before_release(spec, "triton_model_entry"), what)


def adoption_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job that takes a third-party version from its export to production."""
    what = (
        "a version that another training job registered, through the same gates. Name it in the "
        f"configuration of {spec.model_name}__onnx_model."
    )
    return _job(spec, "adoption", _assets_before_release(spec, "onnx_model"), what)


def promotion_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job that switches to the version whose release reached go."""
    assets = [spec.key(name) for name in CHAIN[CHAIN.index(_SWITCH) :]]
    return dg.define_asset_job(
        f"{spec.model_name}_promotion",
        # By prefix: the assets do not exist if the model's definitions cannot be built.
        selection=dg.AssetSelection.key_prefixes(*assets),
        tags=urgent_tags(spec.model_name),
        description=f"{spec.model_name}: switches production to the version whose release reached "
        "go. The sensor release_pilot launches it.",
    )


def _assets_before_release(spec: ModelSpec, first: str = CHAIN[0]) -> Sequence[str]:
    """Return the assets of one run of the chain: a release takes longer than a run should."""
    end = CHAIN.index(_SWITCH) if spec.release else len(CHAIN)
    return CHAIN[CHAIN.index(first) : end]


def _end(spec: ModelSpec) -> str:
    if spec.release:
        return "its gates; the sensor release_pilot then releases it in steps."
    return "production, through every gate."


def drift_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job that compares the gateway's answers with the training data."""
    what = "the sampled answers against the training set."
    return _job(spec, "drift", ["drift_report"], what, report_tags)


def scoring_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job that scores all entities, or a file, with the version in production."""
    what = (
        "the answers of the version in production for all entities, or for the file that is "
        "named in the configuration."
    )
    return _job(spec, "batch_predictions", ["batch_predictions"], what, scoring_tags)


def quality_job(spec: ModelSpec) -> dg.UnresolvedAssetJobDefinition:
    """Build the job that measures a day's answers by their outcomes."""
    what = "the predictions of a day, measured by their outcomes."
    return _job(spec, "quality", ["live_quality"], what, report_tags)


def _job(
    spec: ModelSpec,
    name: str,
    assets: Sequence[str],
    what: str,
    tags: Callable[[str], dict[str, str]] = chain_tags,
) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"{spec.model_name}_{name}",
        selection=dg.AssetSelection.assets(*map(spec.key, assets)),
        tags=tags(spec.model_name),
        description=f"{spec.model_name}: {what}",
    )


def retraining_schedules(
    spec: ModelSpec, job: dg.UnresolvedAssetJobDefinition
) -> list[dg.ScheduleDefinition]:
    """Build the schedule that the model file asks for, if any."""
    wanted, what = spec.automation, "the whole chain, at the times of the model file"
    name = f"{spec.model_name}_retraining"
    return _schedules(name, spec, job, wanted.schedule, wanted.timezone, what)


def _schedules(
    name: str,
    spec: SourceSpec,
    job: dg.UnresolvedAssetJobDefinition,
    cron: str | None,
    timezone: str,
    what: str,
) -> list[dg.ScheduleDefinition]:
    if cron is None:
        return []
    return [
        dg.ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=cron,
            execution_timezone=timezone,
            tags={MODEL_TAG: spec.name},
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description=f"{spec.name}: {what}. Stopped by default.",
        )
    ]


def new_data_sensor(spec: ModelSpec, job: dg.UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Build the sensor that starts the chain when the source's content changes."""
    what = "the source's content changes"
    if spec.tables:
        names = ", ".join(table.name for table in spec.tables)
        what = f"the labels change or one of the tables {names} was read with other content"
    description = f"{spec.model_name}: starts the whole chain when {what}"
    return _source_sensor(spec, job, is_running=spec.automation.on_new_data, what=description)


def table_sensor(
    spec: FeatureTableSpec, job: dg.UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """Build the sensor that reads a feature table again when its source's content changes."""
    description = f"{spec.name}: reads the table again when its source's content changes"
    return _source_sensor(spec, job, is_running=spec.on_new_data, what=description)


def _source_sensor(
    spec: ModelSpec | FeatureTableSpec,
    job: dg.UnresolvedAssetJobDefinition,
    *,
    is_running: bool,
    what: str,
) -> dg.SensorDefinition:
    tables = spec.tables if isinstance(spec, ModelSpec) else ()
    made_by = dg.AssetKey(spec.key("online_features" if tables else "features"))

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job=job,
        minimum_interval_seconds=_check_seconds(spec.source),
        default_status=(
            dg.DefaultSensorStatus.RUNNING if is_running else dg.DefaultSensorStatus.STOPPED
        ),
        description=(
            f"{what}, and again when that run ended because a server was down; a touched file "
            "with the same content starts nothing."
        ),
    )
    def new_data(
        context: dg.SensorEvaluationContext, source: SourceResource
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            fingerprint, cursor = current_fingerprint(spec, source, context.cursor)
        except SourceError as error:
            return dg.SkipReason(f"the source cannot be read: {error}")
        _, _, last = (context.cursor or "").rpartition(" ")
        events = [] if fingerprint == last else [source_event(spec, fingerprint)]
        decision: dg.RunRequest | dg.SkipReason
        try:
            content = current_content(spec, fingerprint, context.instance)
        except TableNotReadError as error:
            decision = dg.SkipReason(str(error))
        else:
            decision = request_run(made_by, content, context.instance)
        if isinstance(decision, dg.SkipReason):
            return dg.SensorResult(skip_reason=decision, cursor=cursor, asset_events=events)
        return dg.SensorResult([decision], cursor=cursor, asset_events=events)

    return new_data


def _check_seconds(source: Source) -> int:
    if source.check_every is not None:
        return int(source.check_every.total_seconds())
    # Without a cheap query for changes, all rows have to be read to detect them.
    reads_all = source.sql is not None and source.sql.changed is None
    return sensor_seconds(3600 if reads_all else 60)


def foreign_version_sensor(
    spec: ModelSpec, job: dg.UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """Build the sensor that adopts versions registered by other training jobs."""

    @dg.sensor(
        name=f"{spec.model_name}_registry",
        job=job,
        minimum_interval_seconds=sensor_seconds(60),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=(
            f"{spec.model_name}: a version in MLflow that this pipeline did not register enters "
            "the chain at onnx_model, through the same gates. Only the newest one does. Stopped "
            "by default."
        ),
    )
    def registry(
        context: dg.SensorEvaluationContext, mlflow: MlflowResource
    ) -> dg.RunRequest | dg.SkipReason:
        try:
            entries = mlflow.versions(spec.model_name)
        except RegistryError as error:
            return dg.SkipReason(f"MLflow cannot be asked: {error}")
        if not entries or not is_foreign(entries[-1]):
            return dg.SkipReason("the newest version is one of this pipeline")
        return request_adoption(spec, entries[-1].version, context.instance)

    return registry
