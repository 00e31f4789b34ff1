"""Texts that one side has and the other has not: new categories, and those that vanished.

A text counts once per unit (`units.window_units`). Each function takes the texts (None for
missing) and the units of both sides, shape (rows,), and returns a share with the limit below
which it stays, with the given confidence, where both sides are alike.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Texts = NDArray[Any]
    Units = NDArray[np.int64]

_NEVER: Final = 1.1
"""Limit of a share that cannot be judged."""


def unseen_share(
    reference: Texts, reference_units: Units, current: Texts, units: Units, confidence: float
) -> tuple[float, float]:
    """Return which share of the window's texts the reference lacks, and its limit.

    Of like sides it is about the share of the reference's texts that it has just once (Good,
    The Population Frequencies of Species, 1953).
    """
    from scipy.stats import norm

    known, seen = _counts(reference, reference_units), _counts(current, units)
    if not known or not seen:
        return 0.0, _NEVER
    size, total = known.total(), seen.total()
    share = sum(count for text, count in seen.items() if text not in known) / total
    once, twice = _rare(known)
    expected = min(1.0, (once + 1) / size)
    variance = expected * (1 - expected) / total + (once + 1 + 2 * twice) / size**2
    quantile = float(norm.ppf(confidence))
    return share, expected + quantile * math.sqrt(variance) + quantile**2 / (3 * total)


def vanished_share(
    reference: Texts, reference_units: Units, current: Texts, units: Units, confidence: float
) -> tuple[float, float]:
    """Return which share of the reference's texts the window lacks, and its limit.

    The limit is Chernoff's for the sum of the texts that so few draws miss. Counts of the
    reference are discounted, since the rare ones are those that happened to be drawn (Ney,
    Essen and Kneser, On Structuring Probabilistic Dependences, 1994).
    """
    import numpy as np

    known, seen = _counts(reference, reference_units), _counts(current, units)
    if not known or not seen:
        return 0.0, _NEVER
    size = known.total()
    share = sum(count for text, count in known.items() if text not in seen) / size
    once, twice = _rare(known)
    discount = once / (once + 2 * twice) if once else 0.0
    counts, times = np.unique(list(known.values()), return_counts=True)
    missed = -seen.total() * (counts - discount) / size  # logarithms of probabilities
    with np.errstate(divide="ignore"):
        drawn = np.log(-np.expm1(missed))
    slopes = np.geomspace(1.0, 1e5, 200)[:, None]
    sums = (times * np.logaddexp(drawn, missed + slopes * counts / size)).sum(axis=1)
    return share, float(((sums - math.log(1 - confidence)) / slopes[:, 0]).min())


def _counts(texts: Texts, units: Units) -> Counter[str]:
    import numpy as np
    import pandas as pd

    codes, names = pd.factorize(texts)  # None is -1
    count = int(units.max(initial=0)) + 1
    pairs = np.unique(codes.astype(np.int64) * count + units)
    found = np.bincount(pairs[pairs >= 0] // count, minlength=len(names))
    return Counter(dict(zip(names.tolist(), found.tolist(), strict=True)))


def _rare(counts: Counter[str]) -> tuple[int, int]:
    """How many texts there are once, and twice."""
    frequencies = Counter(counts.values())
    return frequencies[1], frequencies[2]
