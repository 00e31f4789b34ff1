"""The search for better parameters: Optuna chooses them, the competition judges them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.reader import Log
from platform_assets.model_spec import ModelSpec, Range, Scalar, Search
from platform_assets.training.candidates import Candidate
from platform_assets.training.competition import Judge, WithdrawnError
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.search_spaces import space_of

if TYPE_CHECKING:
    from optuna import Study, Trial

Enter = Callable[[Candidate, str, Judge], float | None]
"""Compares a candidate (`Competition.enter`)."""
Clock = Callable[[], float]
"""Returns seconds since any fixed moment."""

_BEFORE_PRUNING: Final = 5
"""Trials that have to finish before others may end early."""
_WITHDRAWN: Final = "withdrawn"
"""Attribute of a trial that ended early: why."""


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
    from optuna.trial import TrialState

    bases = {one.name: one for one in candidates if space_of(one.spec)}
    started, study = clock(), _study(spec)
    deadline = started + 60 * limits.minutes
    for number in range(1, limits.trials + 1):
        if clock() >= deadline:
            break
        trial = study.ask()
        one, place = _chosen(trial, bases, number), f"trial {number} of {limits.trials}"
        value = enter(one, place, partial(_judge, trial, lambda: clock() >= deadline))
        if value is not None:
            study.tell(trial, value)
        else:
            ended_early = _WITHDRAWN in trial.user_attrs
            study.tell(trial, state=TrialState.PRUNED if ended_early else TrialState.FAIL)
    ended = Counter(one.state for one in study.trials)
    report = SearchReport(
        begun=ended.total(),
        finished=ended[TrialState.COMPLETE],
        ended_early=ended[TrialState.PRUNED],
        failed=ended[TrialState.FAIL],
        seconds=round(clock() - started, 1),
    )
    over = "" if report.begun == limits.trials else f"; the {limits.minutes:g} minutes were over"
    say(
        f"searched {report.seconds:.0f} s: {report.begun} of {limits.trials} trials began, "
        f"{report.finished} finished, {report.ended_early} ended early, {report.failed} failed"
        f"{over}"
    )
    return report


def _judge(trial: Trial, is_late: Callable[[], bool], folds: int, mean: float) -> None:
    """End a trial that promises nothing, or for which there is no time left."""
    if math.isfinite(mean):
        trial.report(mean, folds)
    if is_late():
        why = "the minutes of the search are over"
    elif trial.should_prune():
        why = f"worse than the median of other trials after fold {folds} ({mean:.4f})"
    else:
        return
    trial.set_user_attr(_WITHDRAWN, why)
    raise WithdrawnError(why)


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
    # Of two candidates with one parameter, each has its own.
    values = {
        key: _value(trial, f"{name} {key}", one) for key, one in sorted(space_of(base.spec).items())
    }
    return Candidate(f"{name} trial {number}", base.spec, {**base.parameters, **values}, base.where)


def _value(trial: Trial, name: str, one: Range) -> Scalar:
    if one.whole:
        return trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(name, one.low, one.high, log=one.log)
