"""How far a metric, or a difference of two, may be from its value on ever more rows: pure."""

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
"""Groups of entities that are left out in turn; with fewer entities each is a group."""
_POWER: Final = 0.8

Statistic = Callable[[NDArray[np.bool_] | None], float]
"""A number of the rows that a mask chooses, all of them for None; NaN where undetermined."""


def jackknife(
    statistic: Statistic,
    entities: NDArray[Any],
    *,
    confidence: float,
    resolution: float = 0.0,
    added_rows: int = 2,
) -> Estimate:
    """Estimate a statistic by leaving out groups of entities in turn.

    The interval is Student's, by the spread of the pseudo-values (Tukey 1958; Miller 1974). The
    spread of a count says too little of few rows, and nothing where all answers are right.
    Therefore a few rows of each class that might have come out otherwise are added to the
    variance, as Agresti and Coull (1998, four for a proportion) and Agresti and Min (2005, two
    for a difference of paired ones) do.

    Args:
        statistic: a smooth function of the rows.
        entities: the entity of each row, shape (rows,): rows of one are left out together.
        confidence: of the interval, in (0, 1).
        resolution: most that one row of each class can change the statistic, as the root of the
            sum of squares; 0 for a statistic that does not count.
        added_rows: rows of each class that are added.

    Returns:
        The estimate; its interval is unbounded where fewer than two groups determine it.
    """
    from scipy.special import stdtrit

    value = statistic(None)
    group, entity_count = _groups(entities)
    count = int(group.max()) + 1
    rest = np.array([statistic(group != one) for one in range(count)])
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
    """Entities by which a true value of 0 is shown to lie above `-margin` in four of five cases.

    None where no number would do.
    """
    half = (estimate.high - estimate.low) / 2
    if not (margin > 0 and math.isfinite(half)):
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf((1 + estimate.confidence) / 2)
    wanted = half / margin * (quantile + normal.inv_cdf(_POWER)) / quantile
    return math.ceil(estimate.entities * wanted**2)


def _groups(entities: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """The group of each row, and the number of entities; by the ids alone, in any order."""
    import pandas as pd

    entity, ids = pd.factorize(entities)
    if len(ids) <= _GROUPS:
        return entity.astype(np.int64), len(ids)
    digests = [hashlib.blake2b(str(one).encode(), digest_size=8).digest() for one in ids]
    order = np.argsort(np.frombuffer(b"".join(digests), dtype=">u8"), kind="stable")
    group = np.empty(len(ids), dtype=np.int64)
    group[order] = np.arange(len(ids)) % _GROUPS
    return group[entity], len(ids)
