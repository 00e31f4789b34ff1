"""How training rows are assigned to folds.

Pure and deterministic: the order of the rows does not matter.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import ModelSpec, Split, Task
from platform_assets.training.rows import Rows, TrainingError
from platform_assets.training.splits import nanoseconds, sample_entities, times_of

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Positions of the rows to learn from, and of the rows to test on."""

_BINS: Final = 10
"""Number of quantile bins of a regression's target by which folds are stratified."""


def folds(rows: Rows, spec: ModelSpec) -> list[Fold]:
    """Return the folds of the training rows; fewer than requested if the rows allow no more.

    By entity: all rows of an entity share a fold, and each class (or part of a regression's
    range) is distributed evenly, a rare class over as many folds as it has entities. By time:
    each fold learns from all rows before the ones it tests and the gap. By both: it tests only
    some entities there, and learns only from the others.

    Raises:
        TrainingError: the rows do not allow even one comparison.
    """
    if spec.evaluation.split in {Split.TIME, Split.ENTITY_AND_TIME}:
        return _expanding_folds(rows, spec)
    return entity_folds(rows, spec)


def entity_folds(rows: Rows, spec: ModelSpec) -> list[Fold]:
    """Return folds by entity, as `folds` does; each row is tested by exactly one fold."""
    from sklearn.model_selection import StratifiedKFold

    entities, entity = np.unique(rows.groups, return_inverse=True)
    kind, sizes = _strata(rows.labels, entity, spec)
    if sizes[-1] < 2:
        raise TrainingError(
            "only one entity (of each class) has training rows: there is nothing to compare by"
        )
    # A metric needs two classes in every fold; a third one may be rarer.
    most = len(entities) if spec.task is Task.REGRESSION else sizes[-2:].min()
    count = max(2, min(spec.evaluation.folds, int(most)))
    if np.bincount(kind).max() < count:  # nothing could be distributed evenly
        kind = np.zeros_like(kind)
    splitter = StratifiedKFold(count, shuffle=True, random_state=spec.evaluation.seed + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class too rare for every fold
        tested = [np.isin(entity, test) for _, test in splitter.split(entities, kind)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tested]


def scoring_folds(rows: Rows, spec: ModelSpec) -> list[Fold]:
    """Return folds that test each row exactly once, by what `spec` evaluates by.

    Raises:
        TrainingError: as `entity_folds` and `time_folds` do.
    """
    by_time = spec.evaluation.split is Split.TIME
    return time_folds(rows, spec) if by_time else entity_folds(rows, spec)


def _strata(
    labels: NDArray[Any], entity: NDArray[np.int64], spec: ModelSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what entities are distributed by, and how many entities have each, ascending.

    An entity counts for the rarest class of its rows, or for the bin of their mean. `labels` and
    `entity` have the shape (rows,), and the first result the shape (entities,).
    """
    if spec.task is not Task.REGRESSION:
        _, code = np.unique(labels, return_inverse=True)
        present = np.unique(np.column_stack([code, entity]), axis=0)
        sizes = np.bincount(present[:, 0])
        rarity = np.argsort(np.argsort(sizes, kind="stable"))
        kind = np.full(int(entity.max()) + 1, len(sizes), np.int64)
        np.minimum.at(kind, present[:, 1], rarity[present[:, 0]])
        return kind, np.sort(sizes)
    means = np.bincount(entity, weights=labels) / np.bincount(entity)
    parts = max(1, min(_BINS, len(means) // spec.evaluation.folds))
    edges = np.quantile(means, np.linspace(0, 1, parts + 1)[1:-1])
    kind = np.searchsorted(edges, means).astype(np.int64)
    return kind, np.sort(np.bincount(kind))


def time_folds(rows: Rows, spec: ModelSpec) -> list[Fold]:
    """Return folds by time; each learns from all rows but those it tests and a gap around them.

    Each row is tested by exactly one fold. The gap is dropped if it would leave a fold nothing
    (or a single class) to learn from. TrainingError if all rows have the same time.
    """
    times = times_of(rows)
    moments, moment = np.unique(times, return_inverse=True)
    count = min(spec.evaluation.folds, len(moments))
    if count < 2:
        raise TrainingError("all rows have the same time: there is nothing to compare by")
    part = moment * count // len(moments)
    # The first folds of a comparison by time may span little more than a long gap.
    apart = _gapped_folds(times, part, nanoseconds(spec.evaluation.gap))
    if all(_can_learn(rows, learned, spec) for learned, _ in apart):
        return apart
    return _gapped_folds(times, part, nanoseconds(None))


def _gapped_folds(
    times: NDArray[np.datetime64], part: NDArray[np.int64], gap: np.timedelta64
) -> list[Fold]:
    result = []
    for number in range(int(part.max()) + 1):
        tested = part == number
        first, last = times[tested].min(), times[tested].max()
        learned = ~tested & ((times < first - gap) | (times > last + gap))
        result.append((np.flatnonzero(learned), np.flatnonzero(tested)))
    return result


def _can_learn(rows: Rows, learned: NDArray[np.int64], spec: ModelSpec) -> bool:
    """Whether there are rows of more than one class, or any rows for a regression."""
    several = spec.task is Task.REGRESSION or len(set(rows.labels[learned].tolist())) > 1
    return len(learned) > 0 and several


def _expanding_folds(rows: Rows, spec: ModelSpec) -> list[Fold]:
    from sklearn.model_selection import TimeSeriesSplit

    times, moment = np.unique(times_of(rows), return_inverse=True)
    count = min(spec.evaluation.folds, len(times) - 1)
    parts = TimeSeriesSplit(count).split(times) if count > 1 else ()
    gap = nanoseconds(spec.evaluation.gap)
    result = []
    for number, (_, test) in enumerate(parts, start=1):
        learned, tested = times_of(rows) < times[test[0]] - gap, np.isin(moment, test)
        if spec.evaluation.split is Split.ENTITY_AND_TIME:
            chosen = sample_entities(
                rows.groups, spec.evaluation.seed + number, spec.evaluation.fraction
            )
            learned, tested = learned & ~chosen, tested & chosen
        result.append((np.flatnonzero(learned), np.flatnonzero(tested)))
    usable = [
        (learn, test) for learn, test in result if len(test) and _can_learn(rows, learn, spec)
    ]
    if not usable:
        raise TrainingError(
            "the training rows have too few different times (or only one class in all but the "
            "last of them, or too long a gap) for a comparison by time"
        )
    return usable
