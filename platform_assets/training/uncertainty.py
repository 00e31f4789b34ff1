"""Confidence intervals of a metric, or of a difference of two, without I/O."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.resources.records import Estimate

_GROUPS: Final = 200
"""Number of groups of entities left out in turn; with fewer entities, each is a group."""
_POWER: Final = 0.8

Statistic = Callable[[NDArray[np.bool_] | None], float]
"""Returns a number for the rows that a mask chooses, None for all; NaN where undetermined."""


def jackknife(
    statistic: Statistic,
    entities: NDArray[Any],
    *,
    confidence: float,
    resolution: float = 0.0,
    added_rows: int = 2,
) -> Estimate:
    """Estimate a statistic by leaving out groups of entities in turn.

    The interval is Student's, from the spread of the pseudo-values (Tukey 1958; Miller 1974). The
    spread of a count says too little about few rows, and nothing if all answers are right.
    Therefore a few rows of each class that might have turned out differently are added to the
    variance, as Agresti and Coull (1998, four for a proportion) and Agresti and Min (2005, two
    for a difference of paired ones) do.

    Args:
        statistic: a smooth function of the rows.
        entities: the entity of each row, shape (rows,): rows of one entity are left out together.
        confidence: confidence of the interval, in (0, 1).
        resolution: most that one row of each class can change the statistic, as the root of the
            sum of squares; 0 for a statistic that does not count.
        added_rows: number of rows of each class that are added.

    Returns:
        The estimate; its interval is unbounded where fewer than two groups determine it.
    """
    from scipy.special import stdtrit

    value = statistic(None)
    group, entity_count = _groups(entities)
    count = int(group.max()) + 1
    if count < 2:  # what is left without it has no statistic
        return Estimate(value, -math.inf, math.inf, confidence, entity_count)
    rest = np.array([statistic(group != number) for number in range(count)])
    influences = count * value - (count - 1) * rest
    influences = influences[np.isfinite(influences)]
    if len(influences) < 2:
        return Estimate(value, -math.inf, math.inf, confidence, entity_count)
    rows_per_entity = len(entities) / entity_count
    error = math.hypot(
        float(influences.std(ddof=1)) / math.sqrt(len(influences)),
        math.sqrt(added_rows) * resolution * rows_per_entity,
    )
    degrees = len(influences) - 1
    half = float(stdtrit(degrees, (1 + confidence) / 2)) * error
    return Estimate(
        value, value - half, value + half, confidence, entity_count, error=error, degrees=degrees
    )


def rows_to_show(estimate: Estimate, margin: float) -> int | None:
    """Return how many entities show a true 0 to lie above `-margin` four times out of five.

    None where no number suffices.
    """
    half = (estimate.high - estimate.low) / 2
    if not (margin > 0 and math.isfinite(half)):
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf((1 + estimate.confidence) / 2)
    count = half / margin * (quantile + normal.inv_cdf(_POWER)) / quantile
    return math.ceil(estimate.entities * count**2)


def _groups(entities: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return the group of each row, and the number of entities, from the ids alone."""
    import pandas as pd

    entity, ids = pd.factorize(entities)
    if len(ids) <= _GROUPS:
        return entity.astype(np.int64), len(ids)
    digests = [hashlib.blake2b(str(id_).encode(), digest_size=8).digest() for id_ in ids]
    order = np.argsort(np.frombuffer(b"".join(digests), dtype=">u8"), kind="stable")
    group = np.empty(len(ids), dtype=np.int64)
    group[order] = np.arange(len(ids)) % _GROUPS
    return group[entity], len(ids)
