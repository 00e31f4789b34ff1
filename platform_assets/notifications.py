"""Sensors that report failed and canceled runs, and warnings of checks, to a webhook.

Dagster's own run status sensors move on if their function fails, so a message that did not reach
the webhook would be lost. These keep their own cursor in the event log: they wait while the
webhook is unavailable, and a message that it rejects does not block others.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import dagster as dg

from platform_assets.intervals import sensor_seconds
from platform_assets.resources.redaction import redact_secrets
from platform_assets.resources.webhook import (
    URL_VARIABLE,
    MessageRejected,
    WebhookError,
    WebhookResource,
    escape,
)

UI_VARIABLE: Final = "DAGSTER_UI_URL"

_OFF: Final = f"notifications are off: set {URL_VARIABLE} to the address of a webhook"
_AT_A_TIME: Final = 10
"""Runs per tick: at 5 s per message, a tick stays below the daemon's 60 s."""
_STALE_S: Final = 24 * 3600.0
_MAX_REASON: Final = 600
_MAX_LINES: Final = 15
_MAX_CHARS: Final = 3500
"""Length of the lines between first and last: Slack requires less than 4,000 characters."""
_FAILED: Final = dg.DagsterEventType.RUN_FAILURE
_CANCELED: Final = dg.DagsterEventType.RUN_CANCELED
_SUCCEEDED: Final = dg.DagsterEventType.RUN_SUCCESS

_RunEvent = Literal[
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
    dg.DagsterEventType.RUN_SUCCESS,
]
_Message = Callable[[dg.DagsterInstance, dg.DagsterRun], str | None]


@dg.sensor(
    minimum_interval_seconds=sensor_seconds(30),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports each run that failed (step, reason, failed gates, link) or was canceled.",
)
def run_failure(context: dg.SensorEvaluationContext, webhook: WebhookResource) -> dg.SensorResult:
    """Report the runs that failed or were canceled since the last tick."""
    return _notify(context, webhook, {_FAILED: failure_message, _CANCELED: canceled_message})


@dg.sensor(
    minimum_interval_seconds=sensor_seconds(30),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports the checks that failed in runs that succeeded.",
)
def check_warnings(
    context: dg.SensorEvaluationContext, webhook: WebhookResource
) -> dg.SensorResult:
    """Report the checks that warned in the runs that succeeded since the last tick."""
    return _notify(context, webhook, {_SUCCEEDED: warning_message})


def _notify(
    context: dg.SensorEvaluationContext,
    webhook: WebhookResource,
    messages: Mapping[_RunEvent, _Message],
) -> dg.SensorResult:
    instance = context.instance
    if context.cursor is None or not webhook.address:
        # The past is not reported: neither before the first tick nor while the webhook was off.
        newest = [instance.fetch_run_status_changes(one, limit=1).records for one in messages]
        reason = _OFF if not webhook.address else "reports what happens from now on"
        return _result(
            max((one.storage_id for records in newest for one in records), default=0), reason
        )
    place, sent = int(context.cursor), 0
    changes = _changes(instance, messages, place)
    for record, message in changes:
        run = instance.get_run_by_id(record.run_id)
        text = message(instance, run) if run is not None else None
        try:
            if text is not None:
                webhook.post(text)
                sent += 1
        except MessageRejected as error:
            context.log.warning(f"run {record.run_id} is not reported: {error}")
        except WebhookError as error:
            context.log.warning(f"run {record.run_id} was not reported: {error}")
            if time.time() - record.timestamp < _STALE_S:
                return _result(place, f"{error}; it is tried again at the next tick")
        place = record.storage_id
    return _result(place, f"reported {sent} of {len(changes)} runs" if changes else "nothing new")


def _changes(
    instance: dg.DagsterInstance, messages: Mapping[_RunEvent, _Message], place: int
) -> list[tuple[dg.EventLogRecord, _Message]]:
    """Return the next few of these events after a place in the event log, in order."""
    changes = [
        (record, message)
        for event_type, message in messages.items()
        for record in instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(event_type, after_storage_id=place),
            limit=_AT_A_TIME,
            ascending=True,
        ).records
    ]
    return sorted(changes, key=lambda change: change[0].storage_id)[:_AT_A_TIME]


def _result(place: int, reason: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=str(place))


def failure_message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return the report of a failed run."""
    steps = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    lines = []
    for record in steps.records:
        event = record.event_log_entry.get_dagster_event()
        lines.append(f"Step `{event.step_key}`: {_escape(_reason(event))}")
    if not lines:
        lines = [
            f"No step failed: {message}" for message in _final_messages(instance, run, _FAILED)
        ]
    gates = [check for check in _failed_checks(instance, run) if check.blocking]
    # Gates first: many steps that only propagate an error must not push them out of the message.
    return _text(":red_circle:", "failed", [*_checks("Gate", gates), *lines], instance, run)


def canceled_message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return the report of a run that a person or a time limit ended."""
    messages = _final_messages(instance, run, _CANCELED)
    return _text(":no_entry_sign:", "was canceled", messages, instance, run)


def warning_message(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str | None:
    """Return the report of a run that succeeded; None if no check failed."""
    failed = _failed_checks(instance, run)
    if not failed:
        return None
    what = "went through, but checks warn"
    return _text(":warning:", what, _checks("Check", failed), instance, run)


def _text(
    icon: str, what: str, lines: Sequence[str], instance: dg.DagsterInstance, run: dg.DagsterRun
) -> str:
    """Lay out a message: what happened to which run, as many lines as fit, a link."""
    shown: list[str] = []
    for line in lines[:_MAX_LINES]:
        if sum(map(len, [*shown, line])) > _MAX_CHARS:
            break
        shown.append(line)
    left = len(lines) - len(shown)
    more = [f"… and {left} more, which the run shows"] if left else []
    head = f"{icon} *{_escape(run.job_name)}* {what}{_models(instance, run)}"
    return "\n".join([head, *shown, *more, _link(run)])


def _final_messages(
    instance: dg.DagsterInstance, run: dg.DagsterRun, event_type: _RunEvent
) -> list[str]:
    """Return Dagster's own message on how a run ended."""
    ended = instance.get_records_for_run(run.run_id, of_type=event_type).records
    events = [record.event_log_entry.get_dagster_event() for record in ended[-1:]]
    return [_escape(event.message or "") for event in events]


def _failed_checks(
    instance: dg.DagsterInstance, run: dg.DagsterRun
) -> list[dg.AssetCheckEvaluation]:
    evaluated = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    records = instance.get_records_for_run(run.run_id, of_type=evaluated).records
    # A retried step has judged twice: its last verdict counts.
    newest: dict[dg.AssetCheckKey, dg.AssetCheckEvaluation] = {}
    for record in records:
        evaluation = record.event_log_entry.asset_check_evaluation
        if evaluation is not None:
            newest[evaluation.asset_check_key] = evaluation
    return [evaluation for evaluation in newest.values() if not evaluation.passed]


def _checks(word: str, failed: Iterable[dg.AssetCheckEvaluation]) -> list[str]:
    return [
        f"{word} `{check.check_name}` of {check.asset_key.to_user_string()}: "
        f"{_escape(check.description or 'failed, without a description')}"
        for check in failed
    ]


def _models(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    keys = set(run.asset_selection or ())
    if not keys and run.execution_plan_snapshot_id:
        keys = set(
            instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).asset_selection
        )
    models = sorted({key.path[0] for key in keys if len(key.path) > 1})
    return f" (model {_escape(', '.join(models))})" if models else ""


def _reason(event: dg.DagsterEvent) -> str:
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    if data.error is None:
        return "no reason was recorded"
    # The original error says more than those that only propagated it.
    error = data.error
    while error.cause is not None:
        error = error.cause
    return str(error.message)


def _link(run: dg.DagsterRun) -> str:
    pages = os.environ.get(UI_VARIABLE, "").rstrip("/")
    return f"<{pages}/runs/{run.run_id}|Run {run.run_id[:8]}>" if pages else f"Run {run.run_id}"


def _escape(text: str) -> str:
    """Escape text so that Slack shows it verbatim, without secrets and not too long."""
    # Before cutting and escaping: a truncated or escaped secret would not be recognized.
    text = redact_secrets(text.strip(), os.environ)
    text = text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON - 1]}…"
    return escape(text)
