"""Categories that are new in the window, and those that have vanished from it.

A text counts once per unit (`units.window_units`). Shares stay below their limits with the given
confidence if both sides have the same distribution.
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
"""Shares of texts below which nothing counts as drift, however certain it is."""
_NEVER: Final = 1.1
"""Limit of a share that cannot be judged."""
_EXAMPLES: Final = 3


def novelty(
    reference: Texts, reference_units: Units, current: Texts, units: Units, confidence: float
) -> Novelty:
    """Compare the texts of two sides: None for missing, shape (rows,), with the unit of each."""
    known, current_counts = _counts(reference, reference_units), _counts(current, units)
    if not known or not current_counts:
        return Novelty(0.0, _NEVER, 0.0, _NEVER, ())
    new = Counter({text: count for text, count in current_counts.items() if text not in known})
    lost = sum(count for text, count in known.items() if text not in current_counts)
    return Novelty(
        unseen=new.total() / current_counts.total(),
        unseen_limit=max(_LEAST_UNSEEN, _unseen_limit(known, current_counts.total(), confidence)),
        vanished=lost / known.total(),
        vanished_limit=max(
            _LEAST_VANISHED, _vanished_limit(known, current_counts.total(), confidence)
        ),
        examples=tuple(text for text, _ in new.most_common(_EXAMPLES)),
    )


def _unseen_limit(known: Counter[str], total: int, confidence: float) -> float:
    """Return the limit of the unseen share for `total` texts of the window.

    For equal distributions the share is about that of the texts that occur just once in the
    reference (Good, The Population Frequencies of Species, 1953).
    """
    from scipy.stats import norm

    size = known.total()
    once, twice = _rare(known)
    expected = min(1.0, (once + 1) / size)
    variance = expected * (1 - expected) / total + (once + 1 + 2 * twice) / size**2
    quantile = float(norm.ppf(confidence))
    return expected + quantile * math.sqrt(variance) + quantile**2 / (3 * total)


def _vanished_limit(known: Counter[str], total: int, confidence: float) -> float:
    """Return the limit of the vanished share for `total` texts of the window.

    It is Chernoff's bound for the sum of the texts that so few draws miss. Counts of the reference
    are discounted, since the rare texts are those that happened to be drawn (Ney, Essen and
    Kneser, On Structuring Probabilistic Dependences, 1994).
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
    """Return the number of texts that occur once, and twice."""
    frequencies = Counter(counts.values())
    return frequencies[1], frequencies[2]
