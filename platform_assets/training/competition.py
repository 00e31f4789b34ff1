"""The competition on the folds: each candidate is an MLflow child run and may fail alone."""

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
"""Tag of a run that MLflow's UI shows as its description."""
_NOTE_LENGTH: Final = 4000
Judge = Callable[[int, float], object]
"""Called after each fold with the number of finished ones and the mean metric over them."""


class WithdrawnError(Exception):
    """A judge has ended the cross-validation of a candidate; the message says why."""


class Competition:
    """Compares candidates on the same folds, one after the other.

    `results` has the scores (`cv_...`, and `seconds`) of those that finished, `entered` these
    candidates, both by name; `failed` says why others did not finish.
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
        self._folds: list[Fold] = folds(rows, spec)

    def enter(self, candidate: Candidate, place: str, judge: Judge | None = None) -> float | None:
        """Cross-validate a candidate; return its mean metric, or None where it did not finish.

        `place` is its number and the total, for the log.

        Raises:
            RegistryError: MLflow does not take the run.
        """
        started, metric = time.monotonic(), self._spec.evaluation.metric
        try:
            with self._open_run(candidate.name) as run:
                result = self._compare_unless_withdrawn(candidate, place, run, judge)
        except TrainingError as error:
            reason = self.failed[candidate.name] = _describe(error)
            self._say(f"{place}, {candidate.name}, is out: {reason}")
            return None
        if result is None:
            return None
        scores, notes = result
        seconds = time.monotonic() - started
        self.results[candidate.name] = {**scores, "seconds": seconds}
        self.entered[candidate.name] = candidate
        for note in notes:
            self._say(f"{candidate.name} warned: {without_secrets(note, os.environ)}")
        value = scores[f"cv_{metric}"]
        spread = scores[f"cv_{metric}_std"]
        self._say(
            f"{place}, {candidate.name}: {metric} {value:.4f} ± {spread:.4f} ({seconds:.1f} s)"
        )
        return value

    def _compare_unless_withdrawn(
        self, candidate: Candidate, place: str, run: RunLog, judge: Judge | None
    ) -> tuple[dict[str, float], tuple[str, ...]] | None:
        try:
            return self._compare(candidate, run, judge)
        except TrainingError as error:
            run.record(tags={NOTE_TAG: _describe(error)})
            raise
        except WithdrawnError as reason:
            # Its run is not FAILED: nothing is wrong with the candidate itself.
            run.record(tags={NOTE_TAG: _describe(reason)})
            self._say(f"{place}, {candidate.name}, ended early: {reason}")
            return None

    def _compare(
        self, candidate: Candidate, run: RunLog, judge: Judge | None
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        pipeline = build(candidate, self._spec)
        run.record(params={"candidate": candidate.name, **parameters(pipeline)})
        progress, of = Progress(self._say), len(self._folds)

        def done(finished: int, mean: float) -> None:
            progress.at(candidate.name, finished, of=of, what="folds")
            if judge is not None and finished < of:
                judge(finished, mean)

        result = cross_validate(pipeline, self._rows, self._folds, self._spec, self._classes, done)
        run.record(metrics=result[0])
        return result


def _describe(reason: Exception) -> str:
    """Return a reason for display: a user's function may raise any text of any length."""
    return without_secrets(str(reason), os.environ)[:_NOTE_LENGTH]


def why_all_failed(failed: Mapping[str, str]) -> TrainingError:
    """Return the error of a competition in which all candidates failed."""
    reasons = "".join(f"\n{name}: {reason}" for name, reason in failed.items())
    return TrainingError(f"no candidate can be used:{reasons}")
