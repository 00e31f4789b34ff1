"""How often confidence sequences exclude the truth at any time, and how soon they see a loss.

The long form (`FAULTS=long`) repeats each experiment 10,000 times, the quick one 2,000 times;
those of means are repeated 10,000 times in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from serving_gateway.contract import (
    LATENCY_EDGES,
    BoundedMean,
    BucketCounts,
    EventRate,
    PairedOutcomes,
    Trials,
    quantile_ratio,
)
from tests.faults.scale import scale
from tests.support import sequences

RUNS = scale(2_000, 10_000)
RUNS_OF_MEANS = 10_000
"""In both forms: of 2,000 runs, none excludes a true mean."""
ALPHAS = (0.05, 0.01)
"""Of one statement alone, and of each of five that share it."""

pytestmark = pytest.mark.slow


def successes(probability: float, longest: int, seed: int) -> Any:
    """Counts of successes after each trial, runs by trials."""
    draws = np.random.default_rng(seed).random((RUNS, longest), dtype=np.float32) < probability
    return np.cumsum(draws, axis=1, dtype=np.int16)


def proportions(alpha: float, probability: float, longest: int, seed: int = 1) -> Any:
    """The runs in which the bounds of a proportion ever exclude it."""
    found = successes(probability, longest, seed)
    low, high = sequences.plausible(longest, probability, alpha, int(found.max()) + 40)
    return ((found < low) | (found > high)).any(axis=1)


def differences(alpha: float) -> Any:
    """The same of the difference of two versions that fail alike, tested at their probability."""
    longest, probability = 1_000, 0.01
    a, b = successes(probability, longest, 2), successes(probability, longest, 3)
    counts, most = np.arange(1, longest + 1)[:, None], np.arange(max(a.max(), b.max()) + 1)
    table = sequences.trials(np.minimum(most, counts), counts, probability)
    steps = np.arange(longest)
    return (table[steps, a] + table[steps, b] >= -math.log(alpha)).any(axis=1)


def paired(alpha: float) -> Any:
    """The same of equal versions, by the rows on which one of them alone is wrong.

    Rows on which both are alike change nothing at a difference of 0: 1,000 others are those of
    33,000 rows, where versions differ on 3 % of them.
    """
    steps = np.random.default_rng(4).integers(0, 2, (RUNS, 1_000), dtype=np.int8) * 2 - 1
    excess = np.abs(np.cumsum(steps, axis=1, dtype=np.int16))
    return (excess >= sequences.walk(1_000, alpha, 400)).any(axis=1)


@cache
def evidence_of_means(a: float, b: float) -> Any:
    """The greatest evidence, at any time, against the mean of a beta distribution."""
    values = np.random.default_rng(5).beta(a, b, (RUNS_OF_MEANS, 250))
    mean = a / (a + b)
    sides = sequences.bernstein(values, mean), sequences.bernstein(1 - values, 1 - mean)
    return np.maximum(*sides).max(axis=1)


def means(alpha: float, a: float = 2, b: float = 2) -> Any:
    """The same of a mean."""
    return evidence_of_means(a, b) >= math.log(2 / alpha)


@cache
def evidence_of_rates() -> Any:
    """The greatest evidence against a rate: that at an event, or just before it."""
    truth, events = 0.1, np.arange(1, 101)
    exposure = np.cumsum(np.random.default_rng(21).exponential(1 / truth, (RUNS, 100)), axis=1)
    sides = (sequences.rate(number, exposure, truth) for number in (events, events - 1))
    return np.maximum(*sides).max(axis=1)


def rates(alpha: float) -> Any:
    """The same of a rate."""
    return evidence_of_rates() >= -math.log(alpha)


def quantiles(alpha: float) -> Any:
    """The same of a p99, in the narrowest buckets: by the number of values beyond it."""
    return proportions(alpha, 0.01, 2_000, seed=7)


def shares(alpha: float) -> Any:
    """The same of a share of a tenth."""
    return proportions(alpha, 0.1, 1_000, seed=8)


SEQUENCES: dict[str, Callable[[float], Any]] = {
    "a rare proportion": lambda alpha: proportions(alpha, 0.02, 1_500),
    "an even proportion": lambda alpha: proportions(alpha, 0.5, 600),
    "difference of proportions": differences,
    "paired outcomes": paired,
    "bounded mean": means,
    "mean of a skewed distribution": lambda alpha: means(alpha, 0.5, 4),
    "rate of events": rates,
    "p99": quantiles,
    "a share of a tenth": shares,
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_truth_is_hardly_ever_excluded_at_any_time(name: str) -> None:
    for alpha in ALPHAS:
        assert SEQUENCES[name](alpha).mean() <= alpha
    assert SEQUENCES[name](0.05).any(), "a test that can fail excludes the truth now and then"


def test_bounds_of_a_fixed_sample_exclude_the_truth_where_these_do_not() -> None:
    found = successes(0.02, 1_500, 1)[:2_000, 99:]
    counts = np.arange(100, 1_501)
    share, spread = found / counts, 1.96**2 / counts
    half = 1.96 * np.sqrt(share * (1 - share) / counts + spread / (4 * counts)) / (1 + spread)
    excluded = np.abs((share + spread / 2) / (1 + spread) - 0.02) > half
    assert excluded.any(axis=1).mean() > 0.25


def test_five_guardrails_share_one_error_rate() -> None:
    """Equal versions are stopped by a bound that excludes what is true, of any guardrail."""
    guardrails = (differences, quantiles, paired, means, shares)
    stopped = np.stack([excluded(0.05 / len(guardrails))[:RUNS] for excluded in guardrails])
    assert stopped.any(axis=0).mean() <= 0.05


def test_the_module_excludes_what_the_simulations_exclude() -> None:
    for probability in (0.02, 0.5):
        low, high = sequences.plausible(400, probability, 0.05, 400)
        for count in (30, 150, 400):
            for number in (low[count - 1], high[count - 1]):
                for hits in (int(number) - 1, int(number), int(number) + 1):
                    if 0 <= hits <= count:
                        found = Trials(hits, count).bounds(0.05)
                        is_kept = bool(low[count - 1] <= hits <= high[count - 1])
                        assert (found.low < probability < found.high) is is_kept
    least = sequences.walk(300, 0.05, 200)
    for rows in (20, 100, 300):
        for excess in (least[rows - 1] - 1, least[rows - 1]):
            up = int(rows + excess) // 2
            found = PairedOutcomes(up, rows - up, 1_000).bounds(0.05)
            assert (found.low > 0) is bool(2 * up - rows >= least[rows - 1])
    random = np.random.default_rng(9)
    for events, exposure in zip(
        random.integers(0, 30, 40), random.uniform(20, 400, 40), strict=True
    ):
        found = EventRate(int(events), float(exposure)).bounds(0.05)
        is_excluded = sequences.rate(int(events), float(exposure), 0.1) >= math.log(20)
        assert (found.low <= 0.1 <= found.high) is not bool(is_excluded)
    for values in random.beta(0.5, random.uniform(1, 8, 40)[:, None], (40, 250)):
        found = BoundedMean(250, values.sum(), (values**2).sum(), 0.0, 1.0).bounds(0.05)
        for side, truth in ((values, found.low > 1 / 9), (1 - values, found.high < 1 / 9)):
            mean = 1 / 9 if side is values else 8 / 9
            is_excluded = sequences.bernstein(side, mean)[-1] >= math.log(40)
            # Where a mean lies far beyond a bound, one stake alone may no longer show it.
            assert truth or not is_excluded


DETECTIONS = scale(40, 100)
"""`test_release_simulations` sees more: here are other distributions of latencies."""


def detected(decide: Callable[[Any], bool]) -> float:
    """The share of releases in which a verdict is reached with the given observations."""
    random = np.random.default_rng(10)
    return sum(decide(random) for _ in range(DETECTIONS)) / DETECTIONS


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.lognormal(-5, 0.5, 3_000),
        lambda random: random.exponential(0.01, 3_000),
        lambda random: random.gamma(4, 0.002, 3_000),
    ],
)
def test_a_doubled_p99_is_seen(draw: Callable[[Any], Any]) -> None:
    def counts(values: Any) -> BucketCounts:
        buckets = np.searchsorted(LATENCY_EDGES, values)
        found = np.bincount(buckets, minlength=len(LATENCY_EDGES) + 1)
        return BucketCounts(LATENCY_EDGES, tuple(found.tolist()))

    def decide(random: Any) -> bool:
        a, b = counts(draw(random)), counts(2 * draw(random))
        return quantile_ratio(a, b, 0.99, 0.01).low > 1.25

    assert detected(decide) > 0.5
