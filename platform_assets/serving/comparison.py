"""Candidate against production on the same rows: one paired test with a margin, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from platform_assets.resources.records import Estimate
from platform_assets.training.metrics import Answers, Metric
from platform_assets.training.uncertainty import jackknife, rows_to_show


class ComparisonVerdict(StrEnum):
    """What the rows show about a loss beyond the margin."""

    NON_INFERIOR = "non-inferior"
    """No loss beyond the margin: the lower bound lies above it."""
    WORSE = "worse"
    """A loss that is not shown to lie within the margin: the upper bound lies below 0."""
    INCONCLUSIVE = "inconclusive"
    """Too few rows to show either."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better the candidate is than production, in the unit of the metric.

    `gain` is positive where the candidate is better, whichever way the metric points.
    """

    candidate: float
    production: float
    gain: Estimate
    margin: float
    """Loss that is tolerated, in the unit of the metric."""

    @property
    def verdict(self) -> ComparisonVerdict:
        """The verdict at the confidence of the interval.

        Both errors are one-sided: the probability of calling equal versions worse, and that of
        calling a version non-inferior that is worse by the margin, are each at most half of
        1 - confidence (2.5 % at 95 %).
        """
        if self.gain.low > -self.margin:
            return ComparisonVerdict.NON_INFERIOR
        return ComparisonVerdict.WORSE if self.gain.high < 0 else ComparisonVerdict.INCONCLUSIVE

    @property
    def entities_needed(self) -> int | None:
        """Number of entities that would show equal versions non-inferior four times out of five.

        None where no number suffices, because the margin is 0.
        """
        return rows_to_show(self.gain, self.margin)


def compare(
    metric: Metric,
    candidate: Answers,
    production: Answers,
    entities: NDArray[Any],
    *,
    tolerance: float,
    confidence: float,
) -> Comparison:
    """Compare the answers of two versions for the same rows, with the same true labels.

    `entities`, shape (rows,), holds the entity of each row; rows of one entity are not
    independent. The margin `tolerance` is absolute for a score, relative to production's for an
    error; `confidence` is that of the two-sided interval, in (0, 1).
    """
    sign = 1.0 if metric.higher_is_better else -1.0

    def gain(rows: NDArray[Any] | None) -> float:
        return sign * (metric.of(candidate, rows) - metric.of(production, rows))

    value = metric.of(production, None)
    return Comparison(
        candidate=metric.of(candidate, None),
        production=value,
        gain=jackknife(
            gain, entities, confidence=confidence, resolution=metric.resolution(candidate)
        ),
        margin=tolerance if metric.higher_is_better else tolerance * abs(value),
    )
