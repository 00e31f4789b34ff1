"""Sensors that tell people, by a webhook, of failed runs and of checks that warn.

Dagster's own run status sensors move on when their function fails, so a message that the
webhook did not take would be lost. These keep their place in the event log themselves: what
could not be told is told at a later tick.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal

import dagster as dg

from platform_assets.intervals import sensor_seconds
from platform_assets.resources.redaction import without_secrets
from platform_assets.resources.webhook import (
    URL_VARIABLE,
    WebhookError,
    WebhookResource,
)

UI_VARIABLE: Final = "DAGSTER_UI_URL"

_OFF: Final = f"notifications are off: set {URL_VARIABLE} to the address of a webhook"
_AT_A_TIME: Final = 10
"""Runs per tick: with 5 s for each message a tick stays below the daemon's 60 s."""
_STALE_S: Final = 24 * 3600.0
_LONGEST: Final = 1000

_RunEvent = Literal[dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS]
_Message = Callable[[dg.DagsterInstance, dg.DagsterRun], str | None]


@dg.sensor(
    minimum_interval_seconds=sensor_seconds(30),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook of each failed run: step, reason, failed gates, link.",
)
def run_failure(context: dg.SensorEvaluationContext, webhook: WebhookResource) -> dg.SensorResult:
    """Tell of the runs that failed since the last tick."""
    return _tell(context, webhook, dg.DagsterEventType.RUN_FAILURE, failure_message)


@dg.sensor(
    minimum_interval_seconds=sensor_seconds(30),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells the webhook of the checks that failed in runs that went through.",
)
def check_warnings(
    context: dg.SensorEvaluationContext, webhook: WebhookResource
) -> dg.SensorResult:
    """Tell of the checks that warned in the runs that succeeded since the last tick."""
    return _tell(context, webhook, dg.DagsterEventType.RUN_SUCCESS, warning_message)


def _tell(
    context: dg.SensorEvaluationContext,
    webhook: WebhookResource,
    event_type: _RunEvent,
    message: _Message,
) -> dg.SensorResult:
    instance = context.instance
    if context.cursor is None or not webhook.address:
        # Nothing of the past is told: neither of before the first tick nor of while it was off.
        newest = instance.fetch_run_status_changes(event_type, limit=1).records
        reason = _OFF if not webhook.address else "tells of what happens from now on"
        return _told(newest[0].storage_id if newest else 0, reason)
    place = int(context.cursor)
    records = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(event_type, after_storage_id=place),
        limit=_AT_A_TIME,
        ascending=True,
    ).records
    sent = 0
    for record in records:
        run = instance.get_run_by_id(record.run_id)
        text = message(instance, run) if run is not None else None
        if text is not None:
            try:
                webhook.post(text)
                sent += 1
            except WebhookError as error:
                context.log.warning(f"run {record.run_id} was not told of: {error}")
                if time.time() - record.timestamp < _STALE_S:
                    return _told(place, f"{error}; it is tried again at the next tick")
        place = record.storage_id
    return _told(place, f"told of {sent} of {len(records)} runs" if records else "nothing new")


def _told(place: int, reason: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=str(place))


def failure_message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return what people should hear of a failed run."""
    steps = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    lines = [f":red_circle: *{_escaped(run.job_name)}* failed{_models(instance, run)}"]
    for record in steps.records:
        event = record.event_log_entry.get_dagster_event()
        lines.append(f"Step `{event.step_key}`: {_escaped(_reason(event))}")
    if not steps.records:
        ended = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        lines += [
            f"No step failed: {_escaped(record.event_log_entry.get_dagster_event().message or '')}"
            for record in ended.records[-1:]
        ]
    failed = [check for check in _failed_checks(instance, run) if check.blocking]
    lines += _checks("Gate", failed)
    return "\n".join([*lines, _link(run)])


def warning_message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """Return what people should hear of a run that went through; None when no check failed."""
    failed = _failed_checks(instance, run)
    if not failed:
        return None
    models = _models(instance, run)
    first = f":warning: *{_escaped(run.job_name)}* went through, but checks warn{models}"
    return "\n".join([first, *_checks("Check", failed), _link(run)])


def _failed_checks(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> list[dg.AssetCheckEvaluation]:
    evaluated = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    records = instance.get_records_for_run(run.run_id, of_type=evaluated).records
    # A step that was tried again judged twice: its last word counts.
    newest: dict[dg.AssetCheckKey, dg.AssetCheckEvaluation] = {}
    for record in records:
        evaluation = record.event_log_entry.asset_check_evaluation
        if evaluation is not None:
            newest[evaluation.asset_check_key] = evaluation
    return [evaluation for evaluation in newest.values() if not evaluation.passed]


def _checks(word: str, failed: Iterable[dg.AssetCheckEvaluation]) -> list[str]:
    return [
        f"{word} `{check.check_name}` of {check.asset_key.to_user_string()}: "
        f"{_escaped(check.description or 'failed, without a description')}"
        for check in failed
    ]


def _models(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    keys = set(run.asset_selection or ())
    if not keys and run.execution_plan_snapshot_id:
        keys = set(
            instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).asset_selection
        )
    models = sorted({key.path[0] for key in keys if len(key.path) > 1})
    return f" (model {', '.join(map(_escaped, models))})" if models else ""


def _reason(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    if data.error is None:
        return "no reason was recorded"
    # The first error that was raised says more than those that only passed it on.
    error = data.error
    while error.cause is not None:
        error = error.cause
    return str(error.message)


def _link(run: dg.DagsterRun) -> str:
    pages = os.environ.get(UI_VARIABLE, "").rstrip("/")
    return f"<{pages}/runs/{run.run_id}|Run {run.run_id[:8]}>" if pages else f"Run {run.run_id}"


def _escaped(text: str) -> str:
    """Return text in the form that Slack shows as it is, without secrets and not too long."""
    # Before it is cut and escaped: neither half a secret nor an escaped one would be known.
    text = without_secrets(text.strip(), os.environ)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
