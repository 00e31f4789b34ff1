"""Which rows are held out, and how the others are dealt to folds.

Pure and deterministic: the same rows in another order are split alike.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from platform_assets.model_spec import ModelSpec, Split, Task
from platform_assets.resources.records import SplitRecord
from platform_assets.training.rows import Rows, TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fold = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Positions of the rows to learn from, and of those to test on."""

_BINS: Final = 10
"""Parts of a regression's target that every fold gets its share of."""


def split_evaluation(rows: Rows, spec: ModelSpec) -> tuple[Rows, Rows, SplitRecord]:
    """Return training rows, evaluation rows, and the rule that tells them apart.

    By entity: an entity is held out when the hash of its id says so, whatever else there is.
    What one training held out is therefore held out by every later one on more data, and what
    it learned from is never held out later: a version in production can be judged on the
    evaluation rows of its successor.

    By time: the newest rows are held out, rows of the same time together.

    Raises:
        TrainingError: a side would be empty, or a class has no training rows.
    """
    rule = _rule(rows, spec)
    held_out = held_out_by(rule, rows.groups, rows.times)
    if held_out.all() or not held_out.any():
        side = "training" if held_out.all() else "evaluation"
        raise TrainingError(
            f"no {side} rows are left of {len(rows)} at an evaluation fraction of "
            f"{spec.evaluation.fraction} (seed {spec.evaluation.seed})"
        )
    training, evaluation = rows.take(~held_out), rows.take(held_out)
    if spec.task is not Task.REGRESSION:
        _check_classes(rows, training, spec)
    return training, evaluation, rule


def _check_classes(rows: Rows, training: Rows, spec: ModelSpec) -> None:
    import pandas as pd

    missing = sorted(
        set(pd.unique(rows.labels).tolist()) - set(pd.unique(training.labels).tolist())
    )
    if missing:
        raise TrainingError(
            f"class {missing[0]!r} of {spec.target.name} has only evaluation rows, so nothing "
            f"could learn it: add rows of it, or choose another evaluation.fraction or seed"
        )
    seen = training.labels[:1].tolist()[0]
    if (training.labels == seen).all():
        raise TrainingError(
            f"{spec.target.name} has the one value {seen!r} in all training rows: there is "
            "nothing to tell apart"
        )


def held_out_by(
    rule: SplitRecord, entities: NDArray[Any], times: NDArray[np.datetime64] | None
) -> NDArray[np.bool_]:
    """Return which rows a training by this rule did not learn from, shape (rows,).

    Args:
        rule: of that training.
        entities: the entity of each row, shape (rows,).
        times: the time of each row; without it nothing is known of a split by time.
    """
    import numpy as np
    import pandas as pd

    if rule.split == Split.TIME:
        if times is None:
            return np.zeros(len(entities), dtype=np.bool_)
        return np.asarray(times >= np.datetime64(rule.cutoff or "NaT", "ns"), dtype=np.bool_)
    entity, ids = pd.factorize(entities)
    chosen = _hashes(ids, rule.seed) < rule.fraction
    return np.asarray(chosen[entity], dtype=np.bool_)


def _hashes(ids: Any, seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each id, by its text and the seed alone."""
    import numpy as np

    key = str(seed).encode()[:64]
    digests = b"".join(
        hashlib.blake2b(str(one).encode(), digest_size=8, key=key).digest() for one in ids
    )
    return np.frombuffer(digests, dtype=">u8") / 2.0**64


def _rule(rows: Rows, spec: ModelSpec) -> SplitRecord:
    import numpy as np

    chosen = spec.evaluation
    if chosen.split is Split.ENTITY:
        return SplitRecord(chosen.split, chosen.seed, chosen.fraction)
    times = np.sort(_times(rows))
    first = times[len(times) - max(1, round(len(times) * chosen.fraction))]
    if first == times[0]:
        # Many rows of one time at the border: rather fewer to evaluate than none to learn from.
        later = times[times > first]
        first = later[0] if len(later) else first + np.timedelta64(1, "ns")
    return SplitRecord(chosen.split, cutoff=np.datetime_as_string(first, unit="ns"))


def _times(rows: Rows) -> NDArray[np.datetime64]:
    if rows.times is None:
        raise TrainingError("a split by time needs event_time: say which column has the times")
    return rows.times


def folds(rows: Rows, spec: ModelSpec) -> list[Fold]:
    """Return the folds of the training rows; fewer than asked for where the rows allow no more.

    By entity: all rows of an entity share a fold, and each class (or part of a regression's
    range) is dealt evenly, a rare class to as many folds as it has entities. By time: each fold
    learns from all that came before what it tests.

    Raises:
        TrainingError: not even two parts can be made.
    """
    if spec.evaluation.split is Split.TIME:
        return _expanding(rows, spec)
    import numpy as np

    entities, first, entity = np.unique(rows.groups, return_index=True, return_inverse=True)
    kind = _kinds(rows.labels[first], spec.task)
    if len(entities) < 2:
        raise TrainingError("one entity alone has training rows: there is nothing to compare by")
    # A metric needs two classes in every fold; a third one may be rarer.
    most = len(entities)
    if spec.task is not Task.REGRESSION:
        most = int(np.sort(np.bincount(kind))[-2:].min())
    count = max(2, min(spec.evaluation.folds, most))
    dealt = _dealt(kind, count, spec.evaluation.seed + 1)[entity]
    return [
        (np.flatnonzero(dealt != number), np.flatnonzero(dealt == number))
        for number in range(count)
        if (dealt == number).any()
    ]


def _kinds(labels: NDArray[Any], task: Task) -> NDArray[np.int64]:
    import numpy as np

    if task is not Task.REGRESSION:
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    edges = np.quantile(labels, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.unique(np.searchsorted(edges, labels), return_inverse=True)[1].astype(np.int64)


def _dealt(kind: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Deal like cards, sorted by kind and shuffled within it; return the fold of each."""
    import numpy as np

    shuffled = np.random.default_rng(seed).permutation(len(kind))
    order = shuffled[np.argsort(kind[shuffled], kind="stable")]
    fold = np.empty(len(kind), dtype=np.int64)
    fold[order] = np.arange(len(order)) % count
    return fold


def _expanding(rows: Rows, spec: ModelSpec) -> list[Fold]:
    import numpy as np

    times, parts = _times(rows), spec.evaluation.folds + 1
    ordered = np.sort(times)
    edges = np.unique(ordered[[len(times) * number // parts for number in range(1, parts)]])
    part = np.searchsorted(edges, times, side="right")
    result = [
        (np.flatnonzero(part < number), np.flatnonzero(part == number))
        for number in range(1, int(part.max()) + 1)
    ]
    usable = [
        fold
        for fold in result
        if len(fold[0])
        and len(fold[1])
        and (spec.task is Task.REGRESSION or len(set(rows.labels[fold[0]].tolist())) > 1)
    ]
    if not usable:
        raise TrainingError(
            "the training rows have too few different times (or one class only in all but the "
            "last of them) for a comparison by time"
        )
    return usable
