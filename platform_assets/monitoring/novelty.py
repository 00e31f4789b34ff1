"""Categories that are new in the window, and those that vanished from it.

A text counts once per unit (`units.window_units`). Limits are what the shares stay below, with
the given confidence, where both sides are alike.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.monitoring.records import Novelty
from platform_assets.monitoring.units import Units

Texts = NDArray[Any]

_LEAST_UNSEEN: Final = 0.01
_LEAST_VANISHED: Final = 0.05
"""Shares of texts below which nothing is called drift, however certain it is."""
_NEVER: Final = 1.1
"""Limit of a share that cannot be judged."""
_EXAMPLES: Final = 3


def novelty(
    reference: Texts, reference_units: Units, current: Texts, units: Units, confidence: float
) -> Novelty:
    """Compare the texts of two sides: None for missing, shape (rows,), with the unit of each."""
    known, seen = _counts(reference, reference_units), _counts(current, units)
    if not known or not seen:
        return Novelty(0.0, _NEVER, 0.0, _NEVER, ())
    new = Counter({text: count for text, count in seen.items() if text not in known})
    lost = sum(count for text, count in known.items() if text not in seen)
    return Novelty(
        unseen=new.total() / seen.total(),
        unseen_limit=max(_LEAST_UNSEEN, _unseen_limit(known, seen.total(), confidence)),
        vanished=lost / known.total(),
        vanished_limit=max(_LEAST_VANISHED, _vanished_limit(known, seen.total(), confidence)),
        examples=tuple(text for text, _ in new.most_common(_EXAMPLES)),
    )


def _unseen_limit(known: Counter[str], total: int, confidence: float) -> float:
    """The limit for `total` texts of the window.

    Of like sides it is about the share of the reference's texts that it has just once (Good,
    The Population Frequencies of Species, 1953).
    """
    from scipy.stats import norm

    size = known.total()
    once, twice = _rare(known)
    expected = min(1.0, (once + 1) / size)
    variance = expected * (1 - expected) / total + (once + 1 + 2 * twice) / size**2
    quantile = float(norm.ppf(confidence))
    return expected + quantile * math.sqrt(variance) + quantile**2 / (3 * total)


def _vanished_limit(known: Counter[str], total: int, confidence: float) -> float:
    """The limit for `total` texts of the window.

    It is Chernoff's for the sum of the texts that so few draws miss. Counts of the reference are
    discounted, since the rare ones are those that happened to be drawn (Ney, Essen and Kneser,
    On Structuring Probabilistic Dependences, 1994).
    """
    size = known.total()
    once, twice = _rare(known)
    discount = once / (once + 2 * twice) if once else 0.0
    counts, times = np.unique(list(known.values()), return_counts=True)
    missed = -total * (counts - discount) / size  # logarithms of probabilities
    with np.errstate(divide="ignore"):
        drawn = np.log(-np.expm1(missed))
    slopes = np.geomspace(1.0, 1e5, 200)[:, None]
    sums = (times * np.logaddexp(drawn, missed + slopes * counts / size)).sum(axis=1)
    return float(((sums - math.log(1 - confidence)) / slopes[:, 0]).min())


def _counts(texts: Texts, units: Units) -> Counter[str]:
    import pandas as pd

    codes, names = pd.factorize(texts)  # None is -1
    count = int(units.max(initial=0)) + 1
    pairs = np.unique(codes.astype(np.int64) * count + units)
    units_of = np.bincount(pairs[pairs >= 0] // count, minlength=len(names))
    return Counter(dict(zip(names.tolist(), units_of.tolist(), strict=True)))


def _rare(counts: Counter[str]) -> tuple[int, int]:
    """How many texts there are once, and twice."""
    frequencies = Counter(counts.values())
    return frequencies[1], frequencies[2]
