"""Turn the events of a Dagster run into progress messages for the user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from platform_assets.local_stack.dagster_answers import EvaluatedCheck, RunEvent, StepError

_PLANNED: Final = "AssetMaterializationPlannedEvent"
_CHECK_FAILED: Final = "DagsterAssetCheckFailedError"
_INTERRUPTED: Final = "DagsterExecutionInterruptedError"
_STEP_STARTS: Final = frozenset({"ExecutionStepStartEvent", "ExecutionStepRestartEvent"})
_STEP_ENDS: Final = frozenset(
    {"ExecutionStepSuccessEvent", "ExecutionStepFailureEvent", "ExecutionStepUpForRetryEvent"}
)
_WITHOUT_STEP: Final = {
    "QUEUED": "queued behind another run",
    "STARTING": "its process starts",
    "CANCELING": "being canceled",
}
_PAUSES_S: Final = (5.0, 10.0, 20.0, 30.0)
"""Pauses before each report that nothing new happened; the last one repeats."""


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """A progress message for the user.

    `kind` is `launched` (with the page of the run), `asset` (with its number among those of the
    run), `check`, `warning`, `failure`, or `waiting` (with the seconds that its name, such as the
    step in progress, has taken so far).
    """

    kind: str
    name: str
    detail: str = ""


class RunProgress:
    """Tracks the progress of a run by its events; `now` is in seconds of a monotonic clock."""

    def __init__(self, job: str, now: float) -> None:
        self._job = job
        self._steps: dict[str, float] = {}
        self._last_event = self._reported = now
        self._pauses = iter(_PAUSES_S)
        self._pause = next(self._pauses)
        self._planned = self._done = 0
        self._has_reason = False

    def read(self, events: Iterable[RunEvent], now: float) -> Iterator[ChainEvent]:
        """Yield the events that are worth showing."""
        for raw in events:
            self._last_event = now
            self._planned += raw.typename == _PLANNED
            self._follow_step(raw, now)
            event = self._event(raw)
            if event is not None:
                self._has_reason |= event.kind == "failure"
                self._restart_pauses(now)
                yield event

    def heartbeat(self, status: str, now: float) -> ChainEvent | None:
        """Return what the run is waiting for, if a report is due again."""
        if now - self._reported < self._pause:
            return None
        self._reported = now
        self._pause = next(self._pauses, _PAUSES_S[-1])
        waits = _WITHOUT_STEP.get(status)
        if waits is None and self._steps:
            step, began = next(iter(self._steps.items()))  # the one that takes longest
            return ChainEvent("waiting", step.replace("__", ": ", 1), f"{now - began:.0f} s")
        name = f"{self._job}: {waits or 'between two steps'}"
        return ChainEvent("waiting", name, f"{now - self._last_event:.0f} s")

    def _follow_step(self, raw: RunEvent, now: float) -> None:
        step = raw.step_key or ""
        if raw.typename in _STEP_STARTS:
            self._steps[step] = now
            self._restart_pauses(now)
        elif raw.typename in _STEP_ENDS:
            self._steps.pop(step, None)

    def _restart_pauses(self, now: float) -> None:
        self._reported = now
        self._pauses = iter(_PAUSES_S)
        self._pause = next(self._pauses)

    def _event(self, raw: RunEvent) -> ChainEvent | None:
        if raw.typename == "MaterializationEvent" and raw.asset_key is not None:
            self._done += 1
            name = "/".join(raw.asset_key.path)
            return ChainEvent("asset", name, f"{self._done} of {self._planned}")
        if raw.evaluation is not None:
            return _check_event(raw.evaluation)
        if raw.typename == "ExecutionStepFailureEvent":
            return _failed_step(raw)
        if raw.typename == "RunFailureEvent" and not self._has_reason:
            return ChainEvent("failure", self._job, raw.message)
        return None


def _failed_step(raw: RunEvent) -> ChainEvent | None:
    error = raw.error or StepError()
    # A blocking check has already reported by name why it ends the run; for an interruption, the
    # run's own event says whether it was canceled.
    if error.class_name in {_CHECK_FAILED, _INTERRUPTED}:
        return None
    described = raw.failure_metadata and raw.failure_metadata.description
    reason = described or [error.message, *(cause.message for cause in error.causes)][-1]
    return ChainEvent("failure", raw.step_key or "", reason.strip())


def _check_event(evaluation: EvaluatedCheck) -> ChainEvent:
    name = "/".join(evaluation.asset_key.path) + ":" + evaluation.check_name
    if evaluation.success:
        return ChainEvent("check", name)
    kind = "failure" if evaluation.severity == "ERROR" else "warning"
    return ChainEvent(kind, name, evaluation.description or "the check did not pass")
