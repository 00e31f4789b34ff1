"""The search for better parameters: Optuna chooses them, the competition judges them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.reader import Log
from platform_assets.model_spec import ModelSpec, Range, Scalar, Search
from platform_assets.training.candidates import Candidate
from platform_assets.training.competition import Judge, WithdrawnError
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.search_spaces import Space, space_of

if TYPE_CHECKING:
    from optuna import Study, Trial

Enter = Callable[[Candidate, str, Judge], float | None]
"""Compares a candidate (`Competition.enter`)."""
Clock = Callable[[], float]
"""Returns seconds since any fixed moment."""

_BEFORE_PRUNING: Final = 5
"""Trials that have to finish before others may end early."""


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What a search did: trials by how they ended, and how long it took."""

    begun: int
    finished: int
    ended_early: int
    failed: int
    seconds: float


def search(
    candidates: Sequence[Candidate],
    limits: Search,
    spec: ModelSpec,
    enter: Enter,
    say: Log,
    clock: Clock = time.monotonic,
) -> SearchReport:
    """Try parameters of the candidates that have ranges, until the trials or the minutes are over.

    The same rows, seed and number of trials give the same trials. One ends early whose mean metric
    after some folds is worse than the median of the others after as many.
    """
    bases = {one.name: one for one in candidates if space_of(one.spec)}
    started, study = clock(), _study(spec)
    trials = _Trials(study, clock, started + 60 * limits.minutes)
    while trials.begun < limits.trials and not trials.time_is_up:
        trial = study.ask()
        trials.begun += 1
        one = _chosen(trial, bases, trials.begun)
        place = f"trial {trials.begun} of {limits.trials}"
        trials.end(trial, enter(one, place, lambda *fold, of=trial: trials.judge(of, *fold)))
    report = trials.report(clock() - started)
    over = "" if report.begun == limits.trials else f"; the {limits.minutes:g} minutes were over"
    say(
        f"searched {report.seconds:.0f} s: {report.begun} of {limits.trials} trials began, "
        f"{report.finished} finished, {report.ended_early} ended early, {report.failed} failed"
        f"{over}"
    )
    return report


class _Trials:
    """Tells Optuna what became of its trials, and counts them."""

    def __init__(self, study: Study, clock: Clock, deadline: float) -> None:
        self._study, self._clock, self._deadline = study, clock, deadline
        self._withdrawn = False
        self.begun = self._finished = self._early = 0

    @property
    def time_is_up(self) -> bool:
        return self._clock() >= self._deadline

    def judge(self, trial: Trial, folds: int, mean: float) -> None:
        """End a trial that promises nothing, or for which there is no time left."""
        if math.isfinite(mean):
            trial.report(mean, folds)
        why = None
        if self.time_is_up:
            why = "the minutes of the search are over"
        elif trial.should_prune():
            why = f"worse than the median of other trials after fold {folds} ({mean:.4f})"
        if why is not None:
            self._withdrawn = True
            raise WithdrawnError(why)

    def end(self, trial: Trial, value: float | None) -> None:
        """Take in the value of a trial, None for one that did not finish."""
        from optuna.trial import TrialState

        early, self._withdrawn = self._withdrawn, False
        if value is not None:
            self._study.tell(trial, value)
            self._finished += 1
        elif early:
            self._study.tell(trial, state=TrialState.PRUNED)
            self._early += 1
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def report(self, seconds: float) -> SearchReport:
        failed = self.begun - self._finished - self._early
        return SearchReport(self.begun, self._finished, self._early, failed, round(seconds, 1))


def _study(spec: ModelSpec) -> Study:
    import optuna

    # The competition has a line for each trial.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    higher = chosen_metric(spec.evaluation).higher_is_better
    return optuna.create_study(
        direction="maximize" if higher else "minimize",
        sampler=optuna.samplers.TPESampler(seed=spec.evaluation.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING),
    )


def _chosen(trial: Trial, bases: Mapping[str, Candidate], number: int) -> Candidate:
    """The candidate of a trial, with parameters that Optuna chooses."""
    name = trial.suggest_categorical("candidate", list(bases))
    base = bases[name]
    values = _values(trial, name, space_of(base.spec))
    return Candidate(f"{name} trial {number}", base.spec, {**base.parameters, **values}, base.where)


def _values(trial: Trial, name: str, space: Space) -> dict[str, Scalar]:
    # Of two candidates with one parameter, each has its own.
    return {key: _value(trial, f"{name} {key}", one) for key, one in sorted(space.items())}


def _value(trial: Trial, name: str, one: Range) -> Scalar:
    if one.whole:
        return trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(name, one.low, one.high, log=one.log)
