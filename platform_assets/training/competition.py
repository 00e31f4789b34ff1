"""The competition on the folds: each candidate a child run of MLflow, and each fails alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.reader import Log, Progress
from platform_assets.model_spec import Label, ModelSpec
from platform_assets.resources.redaction import without_secrets
from platform_assets.training.candidates import Candidate, build, parameters
from platform_assets.training.folds import Fold, folds
from platform_assets.training.rows import Rows, TrainingError
from platform_assets.training.selection import cross_validate

if TYPE_CHECKING:
    from platform_assets.resources.mlflow_runs import RunLog

NOTE_TAG: Final = "mlflow.note.content"
"""Tag of a run that MLflow's page shows as its description."""
_NOTE_LENGTH: Final = 4000
Judge = Callable[[int, float], object]
"""Gets, after each fold, how many are finished and the mean metric over them."""


class WithdrawnError(Exception):
    """A judge ends the comparison of a candidate; the message says why."""


class Competition:
    """Compares candidates on the same folds, one after the other.

    `results` has the scores (`cv_...`, and `seconds`) of those that finished, `failed` why others
    did not; `entered` are the former, by name.
    """

    def __init__(
        self,
        rows: Rows,
        spec: ModelSpec,
        classes: Sequence[Label],
        open_run: Callable[[str], AbstractContextManager[RunLog]],
        say: Log,
    ) -> None:
        self.results: dict[str, dict[str, float]] = {}
        self.failed: dict[str, str] = {}
        self.entered: dict[str, Candidate] = {}
        self._rows, self._spec, self._classes = rows, spec, classes
        self._open_run, self._say = open_run, say
        self._dealt: list[Fold] = folds(rows, spec)

    def enter(self, one: Candidate, place: str, judge: Judge | None = None) -> float | None:
        """Cross-validate a candidate; return its mean metric, or None where it did not finish.

        `place` says which one of how many it is, for the log.

        Raises:
            RegistryError: MLflow does not take the run.
        """
        started, metric = time.monotonic(), self._spec.evaluation.metric
        try:
            with self._open_run(one.name) as run:
                found = self._unless_withdrawn(one, place, run, judge)
        except TrainingError as error:
            reason = self.failed[one.name] = _told(error)
            self._say(f"{place}, {one.name}, is out: {reason}")
            return None
        if found is None:
            return None
        scores, notes = found
        seconds = time.monotonic() - started
        self.results[one.name] = {**scores, "seconds": seconds}
        self.entered[one.name] = one
        for note in notes:
            self._say(f"{one.name} warned: {without_secrets(note, os.environ)}")
        value = scores[f"cv_{metric}"]
        spread = scores[f"cv_{metric}_std"]
        self._say(f"{place}, {one.name}: {metric} {value:.4f} ± {spread:.4f} ({seconds:.1f} s)")
        return value

    def _unless_withdrawn(
        self, one: Candidate, place: str, run: RunLog, judge: Judge | None
    ) -> tuple[dict[str, float], tuple[str, ...]] | None:
        try:
            return self._compared(one, run, judge)
        except TrainingError as error:
            run.record(tags={NOTE_TAG: _told(error)})
            raise
        except WithdrawnError as reason:
            # Not for a fault of its own: its run is not FAILED.
            run.record(tags={NOTE_TAG: _told(reason)})
            self._say(f"{place}, {one.name}, ended early: {reason}")
            return None

    def _compared(
        self, one: Candidate, run: RunLog, judge: Judge | None
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        pipeline = build(one, self._spec)
        run.record(params={"candidate": one.name, **parameters(pipeline)})
        progress, of = Progress(self._say), len(self._dealt)

        def done(finished: int, mean: float) -> None:
            progress.at(one.name, finished, of=of, what="folds")
            if judge is not None and finished < of:
                judge(finished, mean)

        found = cross_validate(pipeline, self._rows, self._dealt, self._spec, self._classes, done)
        run.record(metrics=found[0])
        return found


def _told(reason: Exception) -> str:
    """What a person reads: a function of the user's may say anything, at any length."""
    return without_secrets(str(reason), os.environ)[:_NOTE_LENGTH]


def why_all_failed(failed: Mapping[str, str]) -> TrainingError:
    """Return the error of a competition that no candidate finished."""
    reasons = "".join(f"\n{name}: {reason}" for name, reason in failed.items())
    return TrainingError(f"no candidate can be used:{reasons}")
