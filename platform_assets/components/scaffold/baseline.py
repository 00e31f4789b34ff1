"""How well simple models predict the target, and the floor that follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from platform_assets.components.scaffold.profile import ScaffoldError
from platform_assets.model_spec import CandidateSpec, Evaluation, Label, ModelSpec, Split, Task
from platform_assets.model_spec.training import estimators, metrics
from platform_assets.training.candidates import Candidate, build
from platform_assets.training.folds import folds
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.preprocessing import Texts, pipeline
from platform_assets.training.rows import Rows, TrainingError
from platform_assets.training.selection import cross_validate
from platform_assets.training.splits import split_evaluation

_SIMPLE: Final = 2
"""Number of estimators tried: the first ones of the task."""
_MOST_ROWS: Final = 5_000
_FRACTIONS: Final = (0.2, 0.3, 0.4)
_SEEDS: Final = 5
_MARGIN_ROWS: Final = 4
"""Margin of evaluation rows beyond `gates.min_rows`."""
_ERRORS: Final = 2.0
"""Standard errors by which a model must beat a constant answer."""
_LEAST_GAIN: Final = 0.02


@dataclass(frozen=True, slots=True)
class Score:
    """Mean and spread of a metric over folds."""

    mean: float
    spread: float
    folds: int


def choose_split(rows: Rows, spec: ModelSpec) -> tuple[Evaluation, str, Rows]:
    """Return how rows are held out, why not by default, and the training rows.

    By time if rows have one, else by entity; more or other rows if the default leaves too few for
    evaluation, or a class without training rows.

    Raises:
        ScaffoldError: no split works; gives the reason of the first one that failed.
    """
    wanted, problem = spec.gates.min_rows + _MARGIN_ROWS, ""
    for evaluation in _evaluations(spec):
        chosen = replace(spec, evaluation=evaluation)
        try:
            training, held_out, _ = split_evaluation(rows, chosen)
            folds(training, chosen)
        except TrainingError as error:
            problem = problem or str(error)
            continue
        if len(held_out) >= wanted:
            return evaluation, problem, training
        problem = problem or f"the default holds out {len(held_out)} of {len(rows)} rows only"
    raise ScaffoldError(f"the rows cannot be split to learn from and to evaluate on: {problem}")


def _evaluations(spec: ModelSpec) -> Iterator[Evaluation]:
    metric = metrics(spec.task)[0]
    splits = (Split.ENTITY,) if spec.event_time is None else (Split.TIME, Split.ENTITY)
    seed = spec.evaluation.seed
    for split in splits:
        for fraction in _FRACTIONS:
            for number in range(_SEEDS if split is Split.ENTITY else 1):
                yield Evaluation(metric=metric, fraction=fraction, split=split, seed=seed + number)


def find_floor(training: Rows, spec: ModelSpec, classes: tuple[Label, ...]) -> tuple[float, str]:
    """Return a floor between a constant answer and the better of two simple models, and why.

    ScaffoldError if neither is better than the constant answer.
    """
    sample = training.spread(_MOST_ROWS)
    metric = chosen_metric(spec.evaluation)
    # For numbers with a trend the past mean is far off: an r2 below 0 says nothing.
    constant = max(0.0, _score(_constant(spec), sample, spec, classes).mean)
    scores = {
        name: _score(
            build(Candidate(name, CandidateSpec(name), {}, name), spec), sample, spec, classes
        )
        for name in estimators(spec.task)[:_SIMPLE]
    }
    name, best = max(scores.items(), key=lambda item: item[1].mean)
    gain = best.mean - constant
    measured = f"{metric.name} {best.mean:.2f} ± {best.spread:.2f}"
    error = best.spread / math.sqrt(best.folds)  # the standard error of the mean
    if not gain > max(_LEAST_GAIN, _ERRORS * error):
        raise ScaffoldError(
            f"no simple model predicts {spec.target.name} better than one constant answer does: "
            f"{name} has a {measured} in cross-validation, the constant {constant:.2f}"
        )
    low = best.mean - _ERRORS * best.spread
    close = "" if low > constant else ", so close that the held-out rows may not show it"
    # Rounded down to two decimals, but just above the constant answer at least.
    target = min(constant + gain / 2, low)
    floor = max(math.floor(target * 100) / 100, math.ceil((constant + 1e-9) * 100) / 100)
    return (
        floor,
        f"between one constant answer ({constant:.2f}) and {name} ({best.mean:.2f} ± "
        f"{best.spread:.2f} in {best.folds} folds of {len(sample):,} rows){close}",
    )


def _constant(spec: ModelSpec) -> Any:
    from sklearn.dummy import DummyClassifier, DummyRegressor

    model = DummyRegressor() if spec.task is Task.REGRESSION else DummyClassifier()
    # One column suffices: the answer is the same, and the others need no preprocessing.
    return pipeline(spec.features[:1], model, spec, scale=False, texts=Texts.PLACES)


def _score(model: Any, rows: Rows, spec: ModelSpec, classes: tuple[Label, ...]) -> Score:
    scores, _ = cross_validate(model, rows, folds(rows, spec), spec, classes)
    name = f"cv_{spec.evaluation.metric}"
    return Score(scores[name], scores[f"{name}_std"], int(scores["cv_folds"]))
