"""Candidate against production on the same rows: a paired comparison, without I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES: Final = 400
MOST_ROWS: Final = 20_000
"""Rows that are resampled; the metrics themselves are those of all rows."""

Score = Callable[["NDArray[np.int64]"], float]
"""The metric of one side on these rows (positions, with repeats)."""


@dataclass(frozen=True, slots=True)
class Duel:
    """How much better the candidate is than production, in the unit of the metric.

    `gain` is positive where the candidate is better, whichever way the metric points; `low`
    and `high` bound it with the confidence asked for. `gains` are those of the resamples.
    """

    candidate: float
    champion: float
    gain: float
    low: float
    high: float
    gains: tuple[float, ...]

    def regression(self, tolerance: float) -> str | None:
        """Why the candidate must not replace production; None when it may."""
        if self.gain < -tolerance:
            return f"it is worse by {-self.gain:.4g}, and {tolerance:.4g} is tolerated"
        if self.high < 0:
            return (
                f"it is worse with confidence: by {-self.high:.4g} to {-self.low:.4g} "
                f"({-self.gain:.4g} on the rows as they are)"
            )
        return None


def duel(
    candidate: Score,
    champion: Score,
    groups: NDArray[Any],
    *,
    greater_is_better: bool,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> Duel:
    """Compare two models on the same evaluation rows by a paired bootstrap of entities.

    Rows of one entity are not independent, so whole entities are drawn. A resample on which
    the metric cannot be computed (a class is missing) is left out.

    Args:
        candidate: metric of the new model on chosen rows.
        champion: metric of production on the same.
        groups: entity of each row, shape (rows,).
        greater_is_better: whether the metric is a score, not an error.
        confidence: of the interval, in (0, 1).
        seed: makes the resamples the same each time.
        resamples: how many.
    """
    import numpy as np

    sign = 1.0 if greater_is_better else -1.0
    everything = np.arange(len(groups))
    new, old = candidate(everything), champion(everything)
    random = np.random.default_rng(seed)
    members = _by_entity(groups, random)
    gains: list[float] = []
    for _ in range(resamples):
        drawn = random.integers(len(members), size=len(members))
        rows = np.concatenate([members[index] for index in drawn])
        gain = sign * (candidate(rows) - champion(rows))
        if np.isfinite(gain):
            gains.append(float(gain))
    tail = (1 - confidence) / 2
    low, high = np.quantile(gains, [tail, 1 - tail]) if gains else (-np.inf, np.inf)
    return Duel(new, old, sign * (new - old), float(low), float(high), tuple(gains))


def _by_entity(groups: NDArray[Any], random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Positions of the rows of each entity; of some entities where there are very many."""
    import numpy as np

    _, inverse = np.unique(groups, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    most = max(1, round(len(members) * MOST_ROWS / len(groups)))
    if most >= len(members):
        return members
    return [members[index] for index in random.choice(len(members), most, replace=False)]
