"""Many releases at once, as arrays: what their replicas counted, and which guards that breaks.

The arrays are judged by the formulas of `tests.support.sequences`, not by the product's code,
which would take an hour; `evidence_of` hands single releases to the product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving_gateway.contract import (
    LATENCY_EDGES,
    Guard,
    PairedOutcomes,
    PhaseEvidence,
    ReleaseEvidence,
    VersionCounts,
)
from tests.support import sequences

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_HALVINGS: Final = 40
_SHIFT: Final = 0.5
"""Scores of a row shift by this much, to either side, or not at all."""
_SCALE: Final = math.exp(-4)
"""Median latency in seconds; the p99 is 59 ms."""
_SPREAD: Final = 0.5


@dataclass(frozen=True)
class Versions:
    """How two versions differ; equal ones by default. Shares of requests or rows."""

    failing_a: float = 0.001
    failing_b: float = 0.001
    slowdown: float = 1.0
    """All quantiles of B's latency over A's."""
    disagreement: float = 0.02
    shift_up: float = 0.02
    shift_down: float = 0.02
    only_b_wrong: float = 0.015
    only_a_wrong: float = 0.015


@dataclass(frozen=True)
class Releases:
    """What was counted up to one look, by release; both versions got all requests."""

    requests: int
    failed_a: Ints
    failed_b: Ints
    latencies_a: Ints
    latencies_b: Ints
    """Releases by `BUCKETS`."""
    disagreed: Ints
    shifted: Ints
    """Releases by rows whose score went up, down, or stayed."""
    outcomes: Ints
    """Releases by rows that only B, only A, and both or neither got wrong."""


def _cumulative(slowdown: float) -> NDArray[np.float64]:
    logarithm = NormalDist(math.log(_SCALE * slowdown), _SPREAD)
    return np.array([logarithm.cdf(math.log(edge)) for edge in LATENCY_EDGES])


_FIRST: Final = int(np.searchsorted(_cumulative(1.0), 0.95))
_LAST: Final = int(np.searchsorted(_cumulative(4.0), 1 - 1e-7))
BUCKETS: Final = range(_FIRST, _LAST + 1)
"""Of the tail. The first one holds all that is below as well: the p99 lies above it."""


def _shares(slowdown: float) -> NDArray[np.float64]:
    upto = np.concatenate([[0.0], _cumulative(slowdown)[_FIRST:_LAST], [1.0]])
    return np.asarray(np.diff(upto))


def simulate(versions: Versions, looks: Sequence[int], runs: int, seed: int) -> Iterator[Releases]:
    """Draw releases of these versions, and yield them at each number of requests, rising."""
    random, before, counted = np.random.default_rng(seed), 0, None
    for look in looks:
        more = _draw(versions, look - before, runs, random)
        counted = more if counted is None else [a + b for a, b in zip(counted, more, strict=True)]
        before = look
        yield Releases(look, *counted)


def _draw(versions: Versions, number: int, runs: int, random: np.random.Generator) -> list[Ints]:
    def several(*shares: float) -> Ints:
        return np.asarray(random.multinomial(number, [*shares, 1 - sum(shares)], runs))

    return [
        random.binomial(number, versions.failing_a, runs),
        random.binomial(number, versions.failing_b, runs),
        random.multinomial(number, _shares(1.0), runs),
        random.multinomial(number, _shares(versions.slowdown), runs),
        random.binomial(number, versions.disagreement, runs),
        several(versions.shift_up, versions.shift_down),
        several(versions.only_b_wrong, versions.only_a_wrong),
    ]


def broken(
    found: Releases, margins: dict[Guard, float], error_rate: float, share: float
) -> dict[Guard, Mask]:
    """By guard, the releases that it stops at this look, in their first step.

    `share` is what this step has of the error rate of guards that are judged within steps.
    """
    alpha, number = error_rate / len(margins), found.requests
    up, down, _ = found.shifted.T
    both_sides = [
        _mean_is_beyond(number, sign * _SHIFT * (up - down), _SHIFT**2 * (up + down), margin, alpha)
        for sign in (1, -1)
        for margin in (margins[Guard.SCORE_SHIFT],)
    ]
    return {
        Guard.FAILURES: _difference_is_beyond(
            found.failed_a, found.failed_b, number, margins[Guard.FAILURES], alpha * share
        ),
        Guard.LATENCY_P99: _ratio_is_beyond(found, margins[Guard.LATENCY_P99], alpha * share),
        Guard.DISAGREEMENT: _share_is_beyond(
            found.disagreed, number, margins[Guard.DISAGREEMENT], alpha
        ),
        Guard.SCORE_SHIFT: both_sides[0] | both_sides[1],
        Guard.OUTCOME: outcome_is_beyond(found.outcomes, margins[Guard.OUTCOME], alpha),
    }


def outcome_is_beyond(outcomes: Ints, margin: float, alpha: float) -> Mask:
    """The releases whose candidate is shown to lose more than the margin."""
    from scipy import special

    only_b, only_a, alike = outcomes.T[..., None]
    stakes, scale = sequences.STAKES, 1 + margin
    capital = special.logsumexp(
        only_b * np.log1p(stakes * (1 - margin) / scale)
        + alike * np.log1p(-stakes * margin / scale)
        + only_a * np.log1p(-stakes),
        axis=1,
        b=sequences.WEIGHTS,
    )
    return np.asarray(capital >= math.log(2 / alpha))


def _mean_is_beyond(number: int, total: Any, squares: Any, margin: float, alpha: float) -> Mask:
    from scipy import special

    mean, stakes = 1 + margin, sequences.STAKES
    total, squares = total + number, squares + 2 * total + number  # from the lower limit, -1
    deviations = (total / mean - number)[:, None]
    spread = (squares / mean**2 - 2 * total / mean + number)[:, None]
    penalties = -np.log1p(-stakes) - stakes
    exponent = stakes * deviations - penalties * spread
    return np.asarray(
        special.logsumexp(exponent, axis=1, b=sequences.WEIGHTS) >= math.log(2 / alpha)
    )


def _share_is_beyond(hits: Ints, number: int, margin: float, alpha: float) -> Mask:
    # Few numbers of hits occur, each in many releases.
    values, places = np.unique(hits, return_inverse=True)
    evidence = sequences.trials(values, number, margin)
    return np.asarray((evidence >= -math.log(alpha)) & (values > margin * number))[places]


def _difference_is_beyond(a: Ints, b: Ints, number: int, margin: float, alpha: float) -> Mask:
    """By the pair of probabilities at this distance that is likeliest."""
    pairs, places = np.unique(np.stack([a, b]), axis=1, return_inverse=True)
    low, high = np.zeros(pairs.shape[1]), np.full(pairs.shape[1], 1 - margin)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            slope = sum(
                hits / share - (number - hits) / (1 - share)
                for hits, share in zip(pairs, (middle, middle + margin), strict=True)
            )
            low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    share = (low + high) / 2
    evidence = sequences.trials(pairs[0], number, share) + sequences.trials(
        pairs[1], number, share + margin
    )
    is_beyond = (evidence >= -math.log(alpha)) & (pairs[1] - pairs[0] > margin * number)
    return np.asarray(is_beyond)[places.ravel()]


def _ratio_is_beyond(found: Releases, margin: float, alpha: float) -> Mask:
    """By the edges of the buckets in which the quantiles may lie, half of alpha for each."""
    number, edges = found.requests, np.asarray([*LATENCY_EDGES, math.inf])
    counts = np.arange(number + 1)
    kept = np.flatnonzero(sequences.trials(counts, number, 0.99) < math.log(2 / alpha))
    low, high = kept[0], kept[-1]
    first = (np.cumsum(found.latencies_b, axis=1) >= low).argmax(axis=1)
    last = (np.cumsum(found.latencies_a, axis=1) > high).argmax(axis=1)
    if high >= number:  # no edge bounds it
        return np.zeros(len(first), dtype=bool)
    # All that is lumped into the first bucket may be anywhere below.
    floor = np.where(first > 0, edges[_FIRST + first - 1], 0.0)
    return np.asarray(floor / edges[_FIRST + last] > margin)


def evidence_of(found: Releases, release: int) -> tuple[ReleaseEvidence, PairedOutcomes]:
    """What the product gets of one of these releases."""

    def counts(failed: Ints, latencies: Ints) -> VersionCounts:
        by_bucket = zip(BUCKETS, latencies[release].tolist(), strict=True)
        return VersionCounts(found.requests, int(failed[release]), dict(by_bucket))

    up, down, _ = found.shifted[release].tolist()
    phase = PhaseEvidence(
        counts(found.failed_b, found.latencies_b),
        counts(found.failed_a, found.latencies_a),
        compared=found.requests,
        disagreed=int(found.disagreed[release]),
        shift=_SHIFT * (up - down),
        shift_squares=_SHIFT**2 * (up + down),
    )
    only_b, only_a, alike = found.outcomes[release].tolist()
    return ReleaseEvidence("one", {"0": phase}), PairedOutcomes(only_b, only_a, alike)
