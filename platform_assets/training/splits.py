"""Which rows are held out, and which are for training.

Pure and deterministic: the order of the rows does not matter.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import ModelSpec, Split, Task
from platform_assets.resources.records import SplitRecord
from platform_assets.training.rows import Rows, TrainingError, row_columns


def split_evaluation(rows: Rows, spec: ModelSpec) -> tuple[Rows, Rows, SplitRecord]:
    """Return training rows, evaluation rows, and the rule that separates them.

    By entity: the hash of an entity's id alone decides whether it is held out. Entities held out
    by one training are therefore held out by every later one on more data, and those it learned
    from never are: a version in production can be judged on the evaluation rows of its successor.

    By time: the newest rows are held out, rows of the same time together. Rows in the gap before
    them are in neither set.

    By both: the evaluation rows are the newest rows of held-out entities, the training rows older
    rows of the others. The rest is in neither set.

    Raises:
        TrainingError: a set would be empty, or a class has no training rows.
    """
    rule = _rule(rows, spec)
    held_out = held_out_mask(rule, rows.groups, rows.times)
    evaluated = evaluation_mask(rule, rows.groups, rows.times)
    if held_out.all() or not evaluated.any():
        side = "training" if held_out.all() else "evaluation"
        gap = "" if spec.evaluation.gap is None else f" and a gap of {spec.evaluation.gap}"
        raise TrainingError(
            f"no {side} rows are left of {len(rows)} at an evaluation fraction of "
            f"{spec.evaluation.fraction}{gap} (seed {spec.evaluation.seed})"
        )
    training, evaluation = rows.take(~held_out), rows.take(evaluated)
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
            f"class {missing[0]!r} of {spec.target.name} has only evaluation rows (or rows that "
            "are on neither side), so no model can learn it: add rows of it, or choose another "
            "evaluation.fraction, gap or seed"
        )
    label = training.labels[:1].tolist()[0]
    if (training.labels == label).all():
        raise TrainingError(
            f"{spec.target.name} has only the value {label!r} in all training rows: there is "
            "nothing to tell apart"
        )


def held_out_mask(
    rule: SplitRecord, entities: NDArray[Any], times: NDArray[np.datetime64] | None
) -> NDArray[np.bool_]:
    """Return which rows a training by this rule did not learn from, shape (rows,).

    `entities` (or values of the rule's `group`) and `times` are those of each row; without
    times, a split by time holds out nothing.
    """
    split = Split(rule.split)
    held_out = np.zeros(len(entities), dtype=np.bool_)
    if split.by_entity:
        held_out |= sample_entities(entities, rule.seed, rule.fraction)
    if split.by_time and times is not None:
        held_out |= times >= np.datetime64(rule.learned_before or rule.cutoff or "NaT", "ns")
    return held_out


def evaluation_mask(
    rule: SplitRecord, entities: NDArray[Any], times: NDArray[np.datetime64] | None
) -> NDArray[np.bool_]:
    """Return which rows a training by this rule evaluates: as `held_out_mask`, without the gap."""
    split = Split(rule.split)
    evaluated = np.ones(len(entities), dtype=np.bool_)
    if split.by_entity:
        evaluated &= sample_entities(entities, rule.seed, rule.fraction)
    if split.by_time and times is not None:
        evaluated &= times >= np.datetime64(rule.cutoff or "NaT", "ns")
    return evaluated


def sample_entities(entities: NDArray[Any], seed: int, fraction: float) -> NDArray[np.bool_]:
    """Return which rows belong to entities chosen by their hash, shape (rows,)."""
    import pandas as pd

    entity, ids = pd.factorize(entities)
    chosen = _hashes(ids, seed) < fraction
    return np.asarray(chosen[entity], dtype=np.bool_)


def _hashes(ids: Any, seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each id, from its text and the seed alone."""
    key = str(seed).encode()[:64]
    digests = b"".join(
        hashlib.blake2b(str(id_).encode(), digest_size=8, key=key).digest() for id_ in ids
    )
    return np.frombuffer(digests, dtype=">u8") / 2.0**64


def _rule(rows: Rows, spec: ModelSpec) -> SplitRecord:
    chosen, split = spec.evaluation, spec.evaluation.split or Split.ENTITY
    cutoff = _cutoff(times_of(rows), chosen.fraction) if split.by_time else None
    before = None if cutoff is None or chosen.gap is None else cutoff - nanoseconds(chosen.gap)
    return SplitRecord(
        split,
        seed=chosen.seed if split.by_entity else 0,
        fraction=chosen.fraction if split.by_entity else 0.0,
        cutoff=_text(cutoff),
        learned_before=_text(before),
        group=chosen.group,
        entities=_entities_by(spec),
    )


def _entities_by(spec: ModelSpec) -> str:
    if not spec.join_key.from_row_number:
        return spec.join_key.name
    columns = json.dumps(row_columns(spec)).encode()
    return f"rows by {hashlib.blake2b(columns, digest_size=8).hexdigest()}"


def _cutoff(times: NDArray[np.datetime64], fraction: float) -> np.datetime64:
    """Return the earliest of the newest times, those of `fraction` of the rows."""
    times = np.sort(times)
    first: np.datetime64 = times[len(times) - max(1, round(len(times) * fraction))]
    if first == times[0]:
        # Many rows share the time at the border: better fewer to evaluate than none to learn from.
        later = times[times > first]
        first = later[0] if len(later) else first + np.timedelta64(1, "ns")
    return first


def _text(time: np.datetime64 | None) -> str | None:
    # NumPy returns a subclass of str, which the record cannot be encoded with.
    return None if time is None else str(np.datetime_as_string(time, unit="ns"))


def nanoseconds(length: timedelta | None) -> np.timedelta64:
    """Return a timedelta in nanoseconds, 0 for None."""
    return np.timedelta64((length or timedelta()) // timedelta(microseconds=1) * 1000, "ns")


def times_of(rows: Rows) -> NDArray[np.datetime64]:
    """Return the times of rows; TrainingError where they have none."""
    if rows.times is None:
        raise TrainingError("a split by time needs event_time: say which column has the times")
    return rows.times
