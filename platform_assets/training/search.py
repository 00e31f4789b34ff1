"""The search for better parameters: Optuna proposes them, the competition judges them."""

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
from platform_assets.training.competition import Judge, PrunedError
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.search_spaces import space_of

if TYPE_CHECKING:
    from optuna import Study, Trial

Enter = Callable[[Candidate, str, Judge], float | None]
"""Cross-validates a candidate (`Competition.enter`)."""
Clock = Callable[[], float]
"""Returns the seconds since some fixed moment."""

_BEFORE_PRUNING: Final = 5
"""Trials that must finish before others may be pruned."""
_PRUNE_REASON: Final = "withdrawn"
"""Attribute of a trial that ended early: the reason."""


@dataclass(frozen=True, slots=True)
class SearchReport:
    """Summary of a search: trials by how they ended, and its duration."""

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
    """Try parameters of the candidates with ranges until the trials or the minutes run out.

    The same rows, seed and number of trials give the same trials. A trial ends early if its mean
    metric after some folds is worse than the median of the others after as many.
    """
    from optuna.trial import TrialState

    bases = {candidate.name: candidate for candidate in candidates if space_of(candidate.spec)}
    started, study = clock(), _study(spec)
    deadline = started + 60 * limits.minutes
    for number in range(1, limits.trials + 1):
        if clock() >= deadline:
            break
        trial = study.ask()
        candidate, place = _propose(trial, bases, number), f"trial {number} of {limits.trials}"
        value = enter(candidate, place, partial(_judge, trial, lambda: clock() >= deadline))
        if value is not None:
            study.tell(trial, value)
        else:
            ended_early = _PRUNE_REASON in trial.user_attrs
            study.tell(trial, state=TrialState.PRUNED if ended_early else TrialState.FAIL)
    ended = Counter(candidate.state for candidate in study.trials)
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
    """End an unpromising trial, or one for which there is no time left."""
    if math.isfinite(mean):
        trial.report(mean, folds)
    if is_late():
        why = "the minutes of the search are over"
    elif trial.should_prune():
        why = f"worse than the median of other trials after fold {folds} ({mean:.4f})"
    else:
        return
    trial.set_user_attr(_PRUNE_REASON, why)
    raise PrunedError(why)


def _study(spec: ModelSpec) -> Study:
    import optuna

    # The competition already logs a line for each trial.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    higher = chosen_metric(spec.evaluation).higher_is_better
    return optuna.create_study(
        direction="maximize" if higher else "minimize",
        sampler=optuna.samplers.TPESampler(seed=spec.evaluation.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING),
    )


def _propose(trial: Trial, bases: Mapping[str, Candidate], number: int) -> Candidate:
    """Return the candidate of a trial, with parameters that Optuna proposes."""
    name = trial.suggest_categorical("candidate", list(bases))
    base = bases[name]
    # Two candidates with the same parameter name each have their own parameter.
    values = {
        key: _value(trial, f"{name} {key}", range_)
        for key, range_ in sorted(space_of(base.spec).items())
    }
    return Candidate(f"{name} trial {number}", base.spec, {**base.parameters, **values}, base.where)


def _value(trial: Trial, name: str, range_: Range) -> Scalar:
    if range_.whole:
        return trial.suggest_int(name, int(range_.low), int(range_.high), log=range_.log)
    return trial.suggest_float(name, range_.low, range_.high, log=range_.log)
