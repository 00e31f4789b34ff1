"""Attempts at a source's content or a foreign version: none yet, done, or to be repeated."""

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
"""Tag of a run started for a source's content: its fingerprint."""
VERSION_TAG: Final = "registry/version"
"""Tag of a run started for a version of another training job."""
_PAUSE_S: Final = 600
_LONGEST_PAUSE_S: Final = 86_400
_STEP_FAILURE: Final = dg.DagsterEventType.STEP_FAILURE


def request_run(
    made_by: dg.AssetKey, fingerprint: str, instance: dg.DagsterInstance
) -> dg.RunRequest | dg.SkipReason:
    """Return the run to start for this content of the source, or why there is none.

    `made_by` is the asset of the model or the table whose materializations name the content. A
    run that failed because a server was unavailable is repeated after ten minutes, then after
    twice as long each time. One that a gate, a bug or a person ended is not: it would end the
    same way.
    """
    tags = {MODEL_TAG: made_by.path[0], CONTENT_TAG: fingerprint}
    requested = dg.RunsFilter(tags=tags)
    event = instance.get_latest_materialization_event(made_by)
    materialization = event.asset_materialization if event else None
    known = materialization.metadata.get(FINGERPRINT_METADATA) if materialization else None
    is_known = known is not None and known.value == fingerprint
    newest = _newest(requested, event, is_known, instance)
    # One run per change: the daemon drops a request whose key it has seen. Content that returns
    # is a change again, so the key includes the run that made the features in between.
    after = event.run_id if event else "nothing"
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
    """Return the run that adopts a version of another training job, or why there is none.

    Repeated under the same conditions as in `request_run`.
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
    """Return why the newest run on some content is not repeated now; empty if it is."""
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
    """Return the pause in seconds after the last try; earlier tries of the same content count."""
    return min(_PAUSE_S << min(max(tries - 1, 0), 8), _LONGEST_PAUSE_S)


def _newest(
    requested: dg.RunsFilter,
    event: dg.EventLogEntry | None,
    is_known: bool,
    instance: dg.DagsterInstance,
) -> dg.RunRecord | None:
    """Return the newest run on this content since the features were last made of another one."""
    filters = [requested]
    if event:
        since = datetime.fromtimestamp(event.timestamp, UTC)
        filters = [dg.RunsFilter(tags=requested.tags, created_after=since)]
    if is_known and event and instance.has_run(event.run_id):
        _, group = instance.get_run_group(event.run_id) or ("", ())
        filters.append(dg.RunsFilter(run_ids=[run.run_id for run in group]))
    records = [
        record for filter_ in filters for record in instance.get_run_records(filter_, limit=100)
    ]
    return max(records, key=lambda record: record.create_timestamp, default=None)


def _is_transient(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    """Whether a run failed only because servers were unavailable or its own process died."""
    if run.status is not dg.DagsterRunStatus.FAILURE:
        return False
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=_STEP_FAILURE)]
    failures = [entry.step_failure_data.user_failure_data for entry in events if entry is not None]
    marks = [entry.metadata.get(TRANSIENT) if entry else None for entry in failures]
    return all(mark is not None and mark.value is True for mark in marks)
