"""A confidence sequence for B's share of the clients: whether the split is what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from serving_gateway.contract.confidence.interval import Interval, require_counts
from serving_gateway.contract.confidence.trials import Trials


@dataclass(frozen=True, slots=True)
class TrafficShare:
    """How many clients A and B answered; estimates B's share, 0 to 1.

    A share other than the configured one (sample-ratio mismatch) means that the comparison of the
    versions is not one of like with like: a B that answers fewer than its share is losing
    requests. The test is the sequential multinomial one of Lindon and Malek, Anytime-valid
    inference for multinomial count data (2022), for two variants, where it is that of `Trials`.
    Count what is assigned independently: clients, or requests without a client; several requests
    of one client go to the same variant, and would count as evidence that they are not.

    Raises:
        ValueError: A count is negative.
    """

    a: int
    b: int

    def __post_init__(self) -> None:
        require_counts(a=self.a, b=self.b)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.a + other.a, self.b + other.b)

    def bounds(self, alpha: float) -> Interval:
        """Bounds of B's share, as in `ConfidenceSequence`."""
        return self._trials.bounds(alpha)

    def mismatch(self, expected: float) -> float:
        """The p-value, valid at any time, of B's share being `expected`; near 0 is a mismatch.

        Raises:
            ValueError: `expected` is not between 0 and 1.
        """
        return self._trials.p_value(expected)

    @property
    def _trials(self) -> Trials:
        return Trials(self.b, self.a + self.b)
