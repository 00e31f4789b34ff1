"""Jobs, schedules and sensors: what runs, and when it runs by itself."""

import time

import dagster as dg

from platform_assets.features.source import FINGERPRINT_METADATA, source_fingerprint
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.source import SourceResource
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.reconcile import observed_drift, reconcile_serving
from serving_gateway.contract import DEFAULT_MODEL

_ASK_AGAIN_AFTER_S = 600
FEATURES = dg.AssetKey("features")

full_chain_job = dg.define_asset_job(
    "full_chain",
    selection=dg.AssetSelection.all(),
    description="Raw data to production, through every gate.",
)

serving_job = dg.define_asset_job(
    "serving_chain",
    selection=dg.AssetSelection.assets("triton_model_entry").downstream(),
    description="The exported version to production: package, load, prove, switch.",
)


@dg.job(description="Makes Triton serve exactly the versions that were verified.")
def reconcile_serving_job() -> None:
    """Run when Triton lost or gained a version behind our back."""
    reconcile_serving()


retraining_schedule = dg.ScheduleDefinition(
    name="nightly_retraining",
    job=full_chain_job,
    cron_schedule="0 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="The whole chain every night at 03:00 UTC. Stopped until somebody wants it.",
)


@dg.sensor(
    job=full_chain_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Starts the whole chain when the source's content changes; a touched file with the same "
        "content starts nothing. Stopped until somebody wants it."
    ),
)
def new_source_data(
    context: dg.SensorEvaluationContext, source: SourceResource
) -> dg.RunRequest | dg.SkipReason:
    """Compare the source's fingerprint with that of the newest `features`."""
    if not source.file.is_file():
        return dg.SkipReason(f"no source file at {source.file}")
    fingerprint = source_fingerprint(source.file)
    newest = context.instance.get_latest_materialization_event(FEATURES)
    materialization = newest.asset_materialization if newest else None
    known = materialization.metadata.get(FINGERPRINT_METADATA) if materialization else None
    if known is not None and known.value == fingerprint:
        return dg.SkipReason("the source is what the features were made of")
    # One run per change: the daemon drops a request whose key it has seen. Content that comes
    # back is a change again, so the key names what the features were made by meanwhile.
    return dg.RunRequest(run_key=f"{fingerprint} after {newest.run_id if newest else 'nothing'}")


@dg.sensor(
    job=reconcile_serving_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Starts the reconcile job when Triton serves other versions than those that were "
        "verified. Running from the start: it only ever gives back what was lost."
    ),
)
def serving_drift(
    context: dg.SensorEvaluationContext, triton: TritonResource, model_repository: ModelRepository
) -> dg.RunRequest | dg.SkipReason:
    """Hold Triton's live answer against the persisted policy."""
    running = context.instance.get_runs(filters=dg.RunsFilter(statuses=list(_UNDER_WAY)), limit=1)
    if running:
        return dg.SkipReason("a run is under way and may be loading a version; looking after it")
    try:
        found = observed_drift(DEFAULT_MODEL, triton, model_repository)
    except TritonError as error:
        return dg.SkipReason(f"Triton cannot be asked: {error}")
    if not found:
        return dg.SkipReason("Triton serves exactly the verified versions")
    # The same drift again within ten minutes means that the last run did not help.
    period = int(time.time() // _ASK_AGAIN_AFTER_S)
    return dg.RunRequest(
        run_key=f"lost {found.lost} gained {found.gained} in period {period}",
        tags={"serving/lost": str(found.lost), "serving/gained": str(found.gained)},
    )


_UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
