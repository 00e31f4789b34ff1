"""What became of a source's content, or of a foreign version: not tried, tried, or to try again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from platform_assets.features.source import FINGERPRINT_METADATA
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import TRANSIENT
from platform_assets.run_tags import MODEL_TAG

CONTENT_TAG: Final = "source/fingerprint"
"""Tag of a run that was started for the source's content: its fingerprint."""
VERSION_TAG: Final = "registry/version"
"""Tag of a run that was started for a version of another training job."""
_PAUSE_S: Final = 600
_LONGEST_PAUSE_S: Final = 86_400
_STEP_FAILURE: Final = dg.DagsterEventType.STEP_FAILURE


def request_run(
    made_by: dg.AssetKey, fingerprint: str, instance: dg.DagsterInstance
) -> dg.RunRequest | dg.SkipReason:
    """Return the run that this content of the source asks for, or why it asks for none.

    `made_by` is the asset of the model or the table whose materializations name the content.
    A run that a server's absence ended is made again after ten minutes, and after twice as long
    each time. One that a gate, a mistake or a person ended is not: it would end so again.
    """
    tags = {MODEL_TAG: made_by.path[0], CONTENT_TAG: fingerprint}
    requested = dg.RunsFilter(tags=tags)
    made = instance.get_latest_materialization_event(made_by)
    materialization = made.asset_materialization if made else None
    known = materialization.metadata.get(FINGERPRINT_METADATA) if materialization else None
    is_known = known is not None and known.value == fingerprint
    newest = _newest(requested, made, is_known, instance)
    # One run per change: the daemon drops a request whose key it has seen. Content that comes
    # back is a change again, so the key names what the features were made by meanwhile.
    after = made.run_id if made else "nothing"
    if newest is not None:
        after = newest.dagster_run.run_id
        if why := _why_not_again(newest, requested, instance, "what the source holds"):
            return dg.SkipReason(why)
    elif is_known:
        return dg.SkipReason("the source is what the features were made of")
    return dg.RunRequest(run_key=f"{fingerprint} after {after}", tags=tags)


def request_adoption(
    spec: ModelSpec, version: int, instance: dg.DagsterInstance
) -> dg.RunRequest | dg.SkipReason:
    """Return the run that takes in a version of another training job, or why there is none.

    Made again as `request_run` makes one again.
    """
    requested = dg.RunsFilter(tags={MODEL_TAG: spec.model_name, VERSION_TAG: str(version)})
    key = f"version {version}"
    if newest := next(iter(instance.get_run_records(requested, limit=1)), None):
        if why := _why_not_again(newest, requested, instance, key):
            return dg.SkipReason(why)
        key += f" after {newest.dagster_run.run_id}"
    config = {f"{spec.model_name}__onnx_model": {"config": {"adopt_version": version}}}
    return dg.RunRequest(run_key=key, run_config={"ops": config}, tags=requested.tags)


def _why_not_again(
    newest: dg.RunRecord, requested: dg.RunsFilter, instance: dg.DagsterInstance, content: str
) -> str:
    """Why the newest run on some content is not followed by another one now; empty if it is."""
    run = newest.dagster_run
    if not run.is_finished:
        return f"a run on {content} is under way"
    if not _is_transient(run, instance):
        return f"the newest run was made of {content}"
    pause = _pause(instance.get_runs_count(requested))
    if time.time() < (newest.end_time or 0) + pause:
        return f"a server was away for run {run.run_id}: next try {pause} s after it"
    return ""


def _pause(tries: int) -> int:
    """Seconds after the last of some tries; those before the content changed back count too."""
    return min(_PAUSE_S << min(max(tries - 1, 0), 8), _LONGEST_PAUSE_S)


def _newest(
    requested: dg.RunsFilter,
    made: dg.EventLogEntry | None,
    is_known: bool,
    instance: dg.DagsterInstance,
) -> dg.RunRecord | None:
    """The newest run on this content, unless the features were made of another one after it."""
    filters = [requested]
    if made:
        since = datetime.fromtimestamp(made.timestamp, UTC)
        filters = [dg.RunsFilter(tags=requested.tags, created_after=since)]
    if is_known and made and instance.has_run(made.run_id):
        _, group = instance.get_run_group(made.run_id) or ("", ())
        filters.append(dg.RunsFilter(run_ids=[run.run_id for run in group]))
    found = [record for each in filters for record in instance.get_run_records(each, limit=100)]
    return max(found, key=lambda one: one.create_timestamp, default=None)


def _is_transient(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    """Whether nothing but servers that were away ended a run, or its own process died."""
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return False
    events = [one.dagster_event for one in instance.all_logs(run.run_id, of_type=_STEP_FAILURE)]
    said = [one.step_failure_data.user_failure_data for one in events if one is not None]
    marks = [one.metadata.get(TRANSIENT) if one else None for one in said]
    return all(mark is not None and mark.value is True for mark in marks)
