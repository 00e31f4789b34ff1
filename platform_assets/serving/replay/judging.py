"""Judge a candidate on replayed rows against its limits, without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import ReplayLimits
from platform_assets.serving.replay.comparison import ComparedAnswers
from serving_gateway.contract import LATENCY_EDGES, BoundedMean, BucketCounts, Guard, Interval

NOISE_SECONDS: Final = 0.005
"""Excess over production's 99th percentile that always passes: busy machines differ by as much."""
_GUARDS: Final = 4
_MOST_SHIFT: Final = 4.0
"""Largest shift of one row, in spreads: bounds need limits, and far outliers count as this."""
_P99: Final = 0.99


class ReplayVerdict(StrEnum):
    """What the rows show about one guard."""

    WITHIN = "within the limit"
    OPEN = "beyond the limit, but on too few rows to show it"
    BROKEN = "shown to be beyond the limit"


@dataclass(frozen=True, slots=True)
class Finding:
    """One guard's estimate, with bounds at the guard's share of the error rate."""

    guard: Guard
    value: float
    bounds: Interval
    limit: float
    observations: int
    """Number of entities or requests compared; of single rows for the latency."""
    verdict: ReplayVerdict
    subject: str = ""
    """The score that shifted most."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        of = f" of the {self.subject}" if self.subject else ""
        return (
            f"{self.guard.value}{of} is {self.value:.3g} ({self.bounds.low:.3g} to "
            f"{self.bounds.high:.3g}) and may be {self.limit:.3g}: {self.verdict.value}"
        )


def judge_replay(
    compared: ComparedAnswers,
    units: NDArray[np.int64],
    seconds: tuple[Sequence[float], Sequence[float]],
    limits: ReplayLimits,
    confidence: float,
    truth: NDArray[np.object_] | None = None,
) -> list[Finding]:
    """Judge each guard for which there is data.

    A version within all limits is called broken with a probability of at most `1 - confidence`,
    over all guards; each guard gets a quarter of that. Rows of one unit count as one observation,
    their mean: `units` are those of the compared rows. `seconds` are durations of single rows,
    the candidate's and production's; `truth` is the true label or value by compared row, None
    where unknown.
    """
    alpha = (1 - confidence) / _GUARDS
    findings = [_latency(*seconds, limits.latency_p99, alpha)]
    if len(units):
        if not compared.is_regression:
            relabelled = unit_means(compared.is_relabelled, units, 0.0, 1.0)
            findings.append(_judge(Guard.DISAGREEMENT, relabelled, limits.disagreement, alpha))
        findings.append(_score_shift(compared, units, limits.score_shift, alpha))
        if truth is not None:
            findings.append(_outcome(compared, units, truth, limits.outcome, alpha))
    return [finding for finding in findings if finding is not None]


def unit_means(
    values: NDArray[np.generic], units: NDArray[np.int64], low: float, high: float
) -> BoundedMean:
    """Accumulate the means by unit; values beyond the limits are clipped to them."""
    numbers = np.clip(values.astype(np.float64), low, high)
    places = np.unique(units, return_inverse=True)[1]
    means = np.bincount(places, numbers) / np.bincount(places)
    return BoundedMean(len(means), float(means.sum()), float((means**2).sum()), low, high)


def _judge(guard: Guard, record: BoundedMean, limit: float, alpha: float) -> Finding:
    """Judge whether a mean is above its limit; all of `alpha` is for that side."""
    bounds, value = record.bounds(2 * alpha), record.mean or 0.0
    verdict = _verdict(value > limit, bounds.low > limit)
    return Finding(guard, value, bounds, limit, record.count, verdict)


def _score_shift(
    compared: ComparedAnswers, units: NDArray[np.int64], limit: float, alpha: float
) -> Finding | None:
    """Judge the score that shifted most, up or down; the scores share `alpha`."""
    findings = []
    for name, shifts in zip(compared.names, compared.shifts.T, strict=True):
        record = unit_means(shifts, units, -_MOST_SHIFT, _MOST_SHIFT)
        bounds, value = record.bounds(alpha / len(compared.names)), record.mean or 0.0
        is_shown = bounds.low > limit or bounds.high < -limit
        verdict = _verdict(abs(value) > limit, is_shown)
        findings.append(
            Finding(Guard.SCORE_SHIFT, value, bounds, limit, record.count, verdict, name)
        )
    order = [*ReplayVerdict]
    return max(
        findings,
        key=lambda finding: (order.index(finding.verdict), abs(finding.value)),
        default=None,
    )


def _outcome(
    compared: ComparedAnswers,
    units: NDArray[np.int64],
    truth: NDArray[np.object_],
    limit: float,
    alpha: float,
) -> Finding | None:
    """Judge the candidate's loss minus production's, in [-1, 1] for each row."""
    known = np.array([value is not None for value in truth], dtype=np.bool_)
    if not known.any():
        return None
    if compared.is_regression:
        true = truth[known].astype(np.float64)
        losses = [np.abs(scores[known, 0] - true) for scores in
                  (compared.scores, compared.production_scores)]  # fmt: skip
        gap = (losses[0] - losses[1]) / compared.spread[0]
    else:
        wrong = [(labels[known] != truth[known]).astype(np.float64) for labels in
                 (compared.labels, compared.production_labels)]  # fmt: skip
        gap = wrong[0] - wrong[1]
    return _judge(Guard.OUTCOME, unit_means(gap, units[known], -1.0, 1.0), limit, alpha)


def _latency(
    candidate: Sequence[float], production: Sequence[float], limit: float, alpha: float
) -> Finding | None:
    """Judge the ratio of the 99th percentiles, by bounds of each at half of `alpha`.

    Never OPEN: what too few rows leave undecided may be due to the machine.
    """
    if not (candidate and production):
        return None
    new, old = (
        BucketCounts.of(LATENCY_EDGES, seconds).bounds(alpha / 2, _P99)
        for seconds in (candidate, production)
    )
    values = [float(np.quantile(seconds, _P99)) for seconds in (candidate, production)]
    is_broken = new.low > max(limit * old.high, old.high + NOISE_SECONDS)
    bounds = Interval(
        max(0.0, new.low) / old.high, new.high / old.low if old.low > 0 else float("inf")
    )
    return Finding(
        Guard.LATENCY_P99,
        values[0] / values[1],
        bounds,
        limit,
        len(candidate),
        ReplayVerdict.BROKEN if is_broken else ReplayVerdict.WITHIN,
    )


def _verdict(is_beyond: bool, is_shown: bool) -> ReplayVerdict:
    if is_shown:
        return ReplayVerdict.BROKEN
    return ReplayVerdict.OPEN if is_beyond else ReplayVerdict.WITHIN
