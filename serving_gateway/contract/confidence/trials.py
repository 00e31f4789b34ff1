"""Confidence sequences for a proportion, and for the difference of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from serving_gateway.contract.confidence.interval import (
    Interval,
    boundary,
    log_sum,
    log_threshold,
    require_counts,
)

MIXTURE: Final = ((0.5, 0.5), (0.5, 50.0), (50.0, 0.5))
"""Beta distributions, equally weighted, of the shares that observations are tested against: any
share, rare events, and events that are rarely absent. The bounds hold with any mixture that is
chosen before the data; this one makes them narrow at failure rates and at the tail of a quantile.
"""


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials and how many of them were successes; estimates the share of successes, 0 to 1.

    The bounds invert the beta-binomial mixture martingale: Robbins, Statistical methods related
    to the law of the iterated logarithm (1970); Howard, Ramdas, McAuliffe and Sekhon,
    Time-uniform, nonparametric, nonasymptotic confidence sequences (2021), section 3.2. They
    assume that each trial succeeds with the same probability, whatever the trials before it were.

    Raises:
        ValueError: A count is negative, or there are more successes than trials.
    """

    successes: int
    trials: int

    def __post_init__(self) -> None:
        require_counts(successes=self.successes, trials=self.trials)
        if self.successes > self.trials:
            raise ValueError(f"{self.trials} trials cannot have {self.successes} successes.")

    def __add__(self, other: Self) -> Self:
        return type(self)(self.successes + other.successes, self.trials + other.trials)

    @property
    def share(self) -> float | None:
        """The share of successes; None without trials."""
        return self.successes / self.trials if self.trials else None

    def bounds(self, alpha: float) -> Interval:
        """Bounds of the probability of a success, as in `ConfidenceSequence`."""
        limit, share = log_threshold(alpha), self.share
        if share is None:
            return Interval(0.0, 1.0)
        evidence = self.evidence()

        def is_excluded(probability: float) -> bool:
            return evidence(probability) >= limit

        return Interval(boundary(share, 0.0, is_excluded), boundary(share, 1.0, is_excluded))

    def evidence(self) -> Callable[[float], float]:
        """The logarithm of the martingale, as a function of the probability that it tests."""
        hits, misses = self.successes, self.trials - self.successes
        mixed = _log_mixture(hits, misses)
        return lambda probability: mixed - _log_likelihood(hits, misses, probability)


def _log_mixture(hits: int, misses: int) -> float:
    """The logarithm of the likelihood of hits and misses, averaged over `MIXTURE`."""
    terms = (_log_beta(a + hits, b + misses) - _log_beta(a, b) for a, b in MIXTURE)
    return log_sum(terms) - math.log(len(MIXTURE))


def proportion_difference(a: Trials, b: Trials, alpha: float) -> Interval:
    """Bounds of B's probability of a success minus A's, as in `ConfidenceSequence`; -1 to 1.

    The product of both martingales tests a pair of probabilities; a difference is excluded when
    all pairs with it are. That takes one error rate for both where bounds of each would take
    half: the joint inversion of Turner and Grünwald, Exact anytime-valid confidence intervals for
    contingency tables and beyond (2023), with mixtures of this module. A and B answered different
    requests; where both answered the same ones, `PairedOutcomes` needs far fewer.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    limit = log_threshold(alpha)
    if not (a.trials and b.trials):
        return Interval(-1.0, 1.0)
    first, second = a.evidence(), b.evidence()

    def is_excluded(distance: float) -> bool:
        likeliest = _likeliest(a, b, distance)
        return first(likeliest) + second(likeliest + distance) >= limit

    estimate = b.successes / b.trials - a.successes / a.trials
    return Interval(
        boundary(estimate, -1.0, is_excluded),
        boundary(estimate, 1.0, is_excluded),
    )


def _likeliest(a: Trials, b: Trials, distance: float) -> float:
    """A's probability of greatest likelihood, where B's is greater by `distance`."""
    low, high = max(0.0, -distance), min(1.0, 1.0 - distance)
    # The likelihood is log-concave, so its slope falls: the maximum is where the slope is 0.
    return boundary(low, high, lambda share: _slope(a, share) + _slope(b, share + distance) <= 0)


def _slope(trials: Trials, probability: float) -> float:
    """The derivative of the logarithm of the likelihood."""
    variance = probability * (1 - probability)
    expected = trials.trials * probability
    if variance <= 0:
        return math.copysign(math.inf, 0.5 - probability) if trials.trials else 0.0
    return (trials.successes - expected) / variance


def _log_likelihood(hits: int, misses: int, probability: float) -> float:
    if (hits and probability <= 0) or (misses and probability >= 1):
        return -math.inf
    log_hits = hits * math.log(probability) if hits else 0.0
    return log_hits + misses * math.log1p(-probability) if misses else log_hits


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
