"""The competition on the folds: each candidate is an MLflow child run and may fail alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.reader import Log, Progress
from platform_assets.model_spec import Label, ModelSpec
from platform_assets.resources.redaction import redact_secrets
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


class PrunedError(Exception):
    """A judge ended the cross-validation of a candidate early; the message says why."""


class Competition:
    """Compares candidates on the same folds, one after the other.

    `results` has the scores (`cv_...`, and `seconds`) and `candidates` the candidates that
    finished, both by name; `failures` says why others did not finish.
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
        self.failures: dict[str, str] = {}
        self.candidates: dict[str, Candidate] = {}
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
                result = self._compare_unless_pruned(candidate, place, run, judge)
        except TrainingError as error:
            reason = self.failures[candidate.name] = _describe(error)
            self._say(f"{place}, {candidate.name}, is out: {reason}")
            return None
        if result is None:
            return None
        scores, notes = result
        seconds = time.monotonic() - started
        self.results[candidate.name] = {**scores, "seconds": seconds}
        self.candidates[candidate.name] = candidate
        for note in notes:
            self._say(f"{candidate.name} warned: {redact_secrets(note, os.environ)}")
        value = scores[f"cv_{metric}"]
        spread = scores[f"cv_{metric}_std"]
        self._say(
            f"{place}, {candidate.name}: {metric} {value:.4f} ± {spread:.4f} ({seconds:.1f} s)"
        )
        return value

    def _compare_unless_pruned(
        self, candidate: Candidate, place: str, run: RunLog, judge: Judge | None
    ) -> tuple[dict[str, float], tuple[str, ...]] | None:
        try:
            return self._compare(candidate, run, judge)
        except TrainingError as error:
            run.record(tags={NOTE_TAG: _describe(error)})
            raise
        except PrunedError as reason:
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
            progress.report(candidate.name, finished, of=of, what="folds")
            if judge is not None and finished < of:
                judge(finished, mean)

        result = cross_validate(pipeline, self._rows, self._folds, self._spec, self._classes, done)
        run.record(metrics=result[0])
        return result


def _describe(reason: Exception) -> str:
    """Return a reason for display: a user's function may raise any text of any length."""
    return redact_secrets(str(reason), os.environ)[:_NOTE_LENGTH]


def all_failed_error(failures: Mapping[str, str]) -> TrainingError:
    """Return the error of a competition in which all candidates failed."""
    reasons = "".join(f"\n{name}: {reason}" for name, reason in failures.items())
    return TrainingError(f"no candidate can be used:{reasons}")
