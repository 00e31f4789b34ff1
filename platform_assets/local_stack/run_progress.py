"""Turn the events of a Dagster run into what a person who waits would like to see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from platform_assets.local_stack.dagster_answers import EvaluatedCheck, RunEvent, StepError

_PLANNED: Final = "AssetMaterializationPlannedEvent"
_CHECK_FAILED: Final = "DagsterAssetCheckFailedError"
_INTERRUPTED: Final = "DagsterExecutionInterruptedError"


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """Something that a person who waits would like to see.

    `kind` is `asset` (with its number among those of the run), `check`, `warning`, `failure`, or
    `waiting` (with the seconds since the last event, every few of them).
    """

    kind: str
    name: str
    detail: str = ""


class RunProgress:
    """How far a run is, according to its events."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._planned = self._done = 0
        self._has_reason = False

    def read(self, events: Iterable[RunEvent]) -> Iterator[ChainEvent]:
        """Yield what is worth showing."""
        for raw in events:
            self._planned += raw.typename == _PLANNED
            event = self._event(raw)
            if event is not None:
                self._has_reason |= event.kind == "failure"
                yield event

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
    # The blocking check has said already, by name, why it ends the run; and of an interruption
    # the run says whether it was canceled.
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
