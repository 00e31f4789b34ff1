"""A confidence sequence for the rate of events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

from serving_gateway.contract.confidence.interval import (
    Interval,
    boundary,
    log_sum,
    log_threshold,
    require_counts,
)

_SHAPE: Final = 0.5
_EXPOSURES: Final = (1.0, 100.0, 10_000.0)
"""Scales of the mixture: about the exposures per event at which the bounds are narrowest."""


@dataclass(frozen=True, slots=True)
class EventRate:
    """Events and the exposure in which they occurred; estimates events per unit of exposure.

    Exposure is time in seconds, or work such as requests where one can have several events. The
    bounds invert the gamma-Poisson mixture martingale: Robbins, Statistical methods related to
    the law of the iterated logarithm (1970); Howard, Ramdas, McAuliffe and Sekhon, Time-uniform,
    nonparametric, nonasymptotic confidence sequences (2021), section 3.2, here for both sides;
    Lindon and Malek, Anytime-valid inference for multinomial count data (2022). They assume
    events of a constant rate that do not cause each other (a Poisson process).

    Raises:
        ValueError: `events` is not a count, or `exposure` negative or infinite.
    """

    events: int
    exposure: float

    def __post_init__(self) -> None:
        require_counts(events=self.events)
        if not 0 <= self.exposure < math.inf or (self.events and not self.exposure):
            raise ValueError(f"{self.events} events cannot have the exposure {self.exposure}.")

    def __add__(self, other: Self) -> Self:
        return type(self)(self.events + other.events, self.exposure + other.exposure)

    @property
    def rate(self) -> float | None:
        """Events per unit of exposure; None without exposure."""
        return self.events / self.exposure if self.exposure else None

    def bounds(self, alpha: float) -> Interval:
        """Bounds of the rate, as in `ConfidenceSequence`; infinite above without exposure."""
        limit, rate = log_threshold(alpha), self.rate
        if rate is None:
            return Interval(0.0, math.inf)
        mixed = self._log_mixture()

        def is_excluded(value: float) -> bool:
            if value <= 0:
                return self.events > 0
            return mixed - self.events * math.log(value) + value * self.exposure >= limit

        high = rate + 1 / self.exposure
        while not is_excluded(high):
            high *= 2
        return Interval(boundary(rate, 0.0, is_excluded), boundary(rate, high, is_excluded))

    def _log_mixture(self) -> float:
        """The logarithm of the likelihood, averaged over rates."""
        shape = _SHAPE + self.events
        terms = (
            math.lgamma(shape)
            - math.lgamma(_SHAPE)
            + _SHAPE * math.log(scale)
            - shape * math.log(scale + self.exposure)
            for scale in _EXPOSURES
        )
        return log_sum(terms) - math.log(len(_EXPOSURES))
