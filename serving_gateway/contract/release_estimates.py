"""What a release's evidence says of each guardrail: observations, an estimate, and its bounds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import accumulate
from typing import Final, NamedTuple

from serving_gateway.contract.confidence import (
    LATENCY_EDGES,
    BoundedMean,
    BucketCounts,
    Interval,
    PairedOutcomes,
    Trials,
    proportion_difference,
    quantile_ratio,
)
from serving_gateway.contract.release import Guard, PhaseEvidence, VersionCounts

LATENCY_FLOOR_S: Final = 0.005
"""Shorter latencies count as this one: below it the network and the scheduler decide which version
is faster, which is no reason to stop a release."""
PairedLosses = PairedOutcomes | BoundedMean
"""Losses on mirrored rows: of labels, or of numbers in units of `ReleasePlan.score_scale`."""


class Stratum(NamedTuple):
    """What was counted while the versions' shares of the requests did not change."""

    counted: PhaseEvidence
    share: float
    """Of a guard's error rate."""


_ORDER: Final = 0.99
_LARGEST_COUNT: Final = 2**53
_FLOOR_BUCKET: Final = bisect_left(LATENCY_EDGES, LATENCY_FLOOR_S)


def add_phases(phases: Iterable[PhaseEvidence]) -> PhaseEvidence:
    """The evidence of all these phases together."""
    return reduce(_add_phases, phases, PhaseEvidence())


def check_phase(counted: PhaseEvidence) -> None:
    """Refuse counts that no process can have made, before they spoil those of all others.

    Raises:
        ValueError: One is negative or beyond 2**53, or they contradict each other.
    """
    sides = counted.candidate, counted.reference
    for side in sides:
        Trials(side.failed, side.requests)
    Trials(counted.disagreed, counted.compared)
    BoundedMean(counted.compared, counted.shift, counted.shift_squares, -1.0, 1.0)
    timed = [count for side in sides for count in side.latencies.values()]
    if min(timed, default=0) < 0:
        raise ValueError("A bucket of latencies has a negative count.")
    if max(counted.compared, *(side.requests for side in sides), *timed) > _LARGEST_COUNT:
        raise ValueError(f"A count is beyond {_LARGEST_COUNT:,}.")


def error_shares(steps: int) -> tuple[float, ...]:
    """What each of these steps gets of an error rate, 1 in all.

    Three quarters for the first one, in which a bad version should be seen, then half of what is
    left for each.
    """
    shares, left = [], 1.0
    for step in range(steps - 1):
        shares.append(left * (0.5 if step else 0.75))
        left -= shares[-1]
    return (*shares, left) if steps else ()


def estimate_guard(
    guard: Guard, alpha: float, strata: Sequence[Stratum], outcome: PairedLosses | None
) -> tuple[int, float | None, Interval]:
    """Observations, estimate (None without any) and bounds of a guard.

    Versions that answer different requests are compared within a step alone, where each gets the
    same share all the time: if load or failures of both change from step to step, so do the shares,
    and sums over steps would show a difference that is not there (Simpson's paradox). The bounds
    of all steps, each at its share of `alpha`, hold at once, so that what all of them allow is
    left. Guards of mirrored requests compare both answers to the same one, and are summed.
    """
    counted = add_phases(stratum.counted for stratum in strata)
    match guard:
        case Guard.FAILURES:
            return _within_steps(_failures, strata, alpha)
        case Guard.LATENCY_P99:
            return _within_steps(_latency, strata, alpha)
        case Guard.DISAGREEMENT:
            requests = Trials(counted.disagreed, counted.compared)
            return requests.trials, requests.share, requests.bounds(alpha)
        case Guard.SCORE_SHIFT:
            shift = BoundedMean(counted.compared, counted.shift, counted.shift_squares, -1.0, 1.0)
            return shift.count, shift.mean, shift.bounds(alpha)
        case Guard.OUTCOME:
            return _outcome(outcome or PairedOutcomes(0, 0, 0), alpha)


def _within_steps(
    measure: Callable[[PhaseEvidence, float], tuple[int, float | None, Interval]],
    strata: Sequence[Stratum],
    alpha: float,
) -> tuple[int, float | None, Interval]:
    """The estimates of all steps, weighted by observations, and what all their bounds allow."""
    estimates = [measure(step.counted, alpha * step.share) for step in strata]
    known = [(count, value) for count, value, _ in estimates if value is not None]
    total = sum(count for count, _ in known)
    value = sum(count * part for count, part in known) / total if total else None
    bounds = [interval for _, _, interval in estimates]
    narrowest = Interval(max(part.low for part in bounds), min(part.high for part in bounds))
    return sum(count for count, _, _ in estimates), value, narrowest


def _failures(counted: PhaseEvidence, alpha: float) -> tuple[int, float | None, Interval]:
    a, b = (Trials(side.failed, side.requests) for side in (counted.reference, counted.candidate))
    value = None if a.share is None or b.share is None else b.share - a.share
    return b.trials, value, proportion_difference(a, b, alpha)


def _latency(counted: PhaseEvidence, alpha: float) -> tuple[int, float | None, Interval]:
    a, b = (_buckets(side.latencies) for side in (counted.reference, counted.candidate))
    ours, theirs = _quantile(a), _quantile(b)
    value = None if ours is None or theirs is None else theirs / ours
    return sum(b.counts), value, quantile_ratio(a, b, _ORDER, alpha)


def _outcome(losses: PairedLosses, alpha: float) -> tuple[int, float | None, Interval]:
    if isinstance(losses, BoundedMean):
        rows = losses.count
    else:
        rows = losses.only_b + losses.only_a + losses.alike
    return rows, losses.mean, losses.bounds(alpha)


def _buckets(latencies: Mapping[int, int]) -> BucketCounts:
    counts = [0] * (len(LATENCY_EDGES) + 1)
    for bucket, count in latencies.items():
        counts[max(_FLOOR_BUCKET, min(bucket, len(LATENCY_EDGES)))] += count
    return BucketCounts(LATENCY_EDGES, tuple(counts))


def _quantile(values: BucketCounts) -> float | None:
    """The upper edge of the bucket of the p99, in seconds; None without values."""
    upto = [*accumulate(values.counts)]
    if not upto[-1]:
        return None
    return LATENCY_EDGES[min(bisect_left(upto, _ORDER * upto[-1]), len(LATENCY_EDGES) - 1)]


def _add_phases(a: PhaseEvidence, b: PhaseEvidence) -> PhaseEvidence:
    return PhaseEvidence(
        _add_counts(a.candidate, b.candidate),
        _add_counts(a.reference, b.reference),
        a.compared + b.compared,
        a.disagreed + b.disagreed,
        a.shift + b.shift,
        a.shift_squares + b.shift_squares,
    )


def _add_counts(a: VersionCounts, b: VersionCounts) -> VersionCounts:
    latencies = dict(a.latencies)
    for bucket, count in b.latencies.items():
        latencies[bucket] = latencies.get(bucket, 0) + count
    return VersionCounts(a.requests + b.requests, a.failed + b.failed, latencies)
