"""What `serving_gateway.contract.confidence` computes, by other means: arrays and scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MIXTURE = ((0.5, 0.5), (0.5, 50.0), (50.0, 0.5))
STAKES = 0.9 * 0.5 ** np.arange(16)
WEIGHTS = np.sqrt(STAKES) / np.sqrt(STAKES).sum()


def trials(successes: Any, count: Any, probability: Any) -> Floats:
    """The log martingale of trials: beta-binomial distributions over the binomial one."""
    from scipy import special, stats

    mixed = [stats.betabinom.logpmf(successes, count, a, b) for a, b in MIXTURE]
    mean = special.logsumexp(np.stack(mixed), axis=0) - math.log(len(MIXTURE))
    return np.asarray(mean - stats.binom.logpmf(successes, count, probability))


def plausible(longest: int, probability: float, alpha: float, most: int) -> tuple[Any, Any]:
    """Per number of trials, the least and greatest number of successes that are not excluded."""
    counts, successes = np.arange(1, longest + 1)[:, None], np.arange(most + 1)
    found = trials(np.minimum(successes, counts), counts, probability)
    kept = (found < -math.log(alpha)) & (successes <= counts)
    assert not kept[:, -1].any(), "`most` is too small to see the upper bound"
    return kept.argmax(axis=1), most - kept[:, ::-1].argmax(axis=1)


def capital(values: Any, mean: float) -> float:
    """The log capital of bets that values of at least -1 exceed `mean`, from all values."""
    from scipy import special

    gains = 1 + STAKES[:, None] * (np.asarray(values) - mean) / (mean + 1)
    return float(special.logsumexp(np.log(gains).sum(axis=1), b=WEIGHTS))


def bernstein(values: Any, mean: float) -> Floats:
    """The same by Fan's bound, after each value of the last axis; nonnegative values."""
    found = np.asarray(values, dtype=np.float32) / np.float32(mean) - np.float32(1)
    sums, squares = np.cumsum(found, axis=-1), np.cumsum(found * found, axis=-1)
    total = np.zeros_like(sums)
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):
        penalty = -math.log1p(-stake) - stake
        total += np.exp(np.float32(stake) * sums - np.float32(penalty) * squares) * np.float32(
            weight
        )
    return np.asarray(np.log(total), dtype=np.float64)


def walk(longest: int, alpha: float, most: int) -> Any:
    """Per number of rows on which one version alone is wrong, the excluded excess of one side."""
    rows, excess = np.arange(1, longest + 1)[:, None], np.arange(most + 1)
    capital = np.zeros((longest, most + 1))
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):
        up, down = math.log1p(stake), math.log1p(-stake)
        capital += weight * np.exp(rows * (up + down) / 2 + excess * (up - down) / 2)
    excluded = capital >= 2 / alpha
    assert excluded[:, -1].all(), "`most` is too small to see the bound"
    return excluded.argmax(axis=1)


def rate(events: Any, exposure: Any, truth: float) -> Floats:
    """The log martingale of a rate: negative binomial distributions over the Poisson one."""
    from scipy import special, stats

    scales = (1.0, 100.0, 10_000.0)
    mixed = [stats.nbinom.logpmf(events, 0.5, scale / (scale + exposure)) for scale in scales]
    mean = special.logsumexp(np.stack(mixed), axis=0) - math.log(len(scales))
    return np.asarray(mean - stats.poisson.logpmf(events, truth * exposure))
