"""What all confidence sequences have in common: bounds, an error rate, the search for a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, Self

_HALVINGS: Final = 60


@dataclass(frozen=True, slots=True)
class Interval:
    """The values that are not excluded, both ends included, in the unit of what is estimated."""

    low: float
    high: float


class ConfidenceSequence(Protocol):
    """A record of observations with bounds that hold at every sample size at once."""

    def bounds(self, alpha: float) -> Interval:
        """Bounds that exclude the truth at any time with a probability of at most `alpha`.

        Raises:
            ValueError: `alpha` is not between 0 and 1.
        """

    def __add__(self, other: Self) -> Self:
        """The record of both records' observations; their order does not matter."""


def log_threshold(alpha: float) -> float:
    """The logarithm of what a nonnegative supermartingale exceeds with probability `alpha`.

    It starts at 1 and, at any time, reaches 1/alpha with a probability of at most alpha: Ville,
    Étude critique de la notion de collectif (1939).

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"An error rate lies between 0 and 1, such as 0.05; {alpha} does not.")
    return -math.log(alpha)


def log_sum(logarithms: Iterable[float]) -> float:
    """The logarithm of the sum of numbers given by their logarithms."""
    terms = list(logarithms)
    largest = max(terms)
    if math.isinf(largest):
        return largest
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))


def boundary(inside: float, outside: float, is_excluded: Callable[[float], bool]) -> float:
    """Where, between a value that is not excluded and the end of the domain, exclusion begins.

    The result is on the side of what is excluded, so that rounding never narrows an interval;
    `outside` itself when that is not excluded either.
    """
    if not is_excluded(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if is_excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def require_counts(**counts: object) -> None:
    """Refuse a record with a count that is negative or not a whole number.

    Raises:
        ValueError: With the name of the count and its value.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"'{name}' counts observations: {count!r} is not a count.")
