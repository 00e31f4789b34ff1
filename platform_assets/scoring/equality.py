"""Predictions of a file against the gateway's answers for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from platform_assets.scoring.records import SampledRow

_ROUNDING: Final = 1e-6
"""Probabilities of 32 bits that were summed up in batches of other sizes differ by no more, nor do
predictions as a part of the larger one."""


@dataclass(frozen=True, slots=True)
class Equality:
    """How many rows were compared, how many are equal to the last digit, and which differ."""

    rows: int
    identical: int
    largest_difference: float
    differing: tuple[str, ...]


def compare_answers(
    sample: Sequence[SampledRow],
    predictions: Sequence[Any],
    probabilities: Sequence[Sequence[float]],
) -> Equality:
    """Compare the sample with answers; `probabilities` is empty for a regression."""
    identical, largest, differing = 0, 0.0, []
    rows = zip(sample, predictions, probabilities or [()] * len(sample), strict=True)
    for row, prediction, shares in rows:
        pairs = list(zip(row.probabilities, shares, strict=True))
        is_number = isinstance(row.prediction, float)
        if is_number:
            pairs = [(row.prediction, float(prediction))]
        distances = [_distance(*pair, is_relative=is_number) for pair in pairs]
        largest = max([largest, *distances])
        is_same = is_number or row.prediction == prediction
        identical += is_same and not any(distances)
        # Of two classes that are as likely, or at the threshold, the last digit decides.
        is_equal = is_same or any(distances)
        if not is_equal or max(distances, default=0.0) > _ROUNDING:
            differing.append(
                f"{list(row.values)}: {row.prediction!r} {list(row.probabilities)} in the file, "
                f"{prediction!r} {list(shares)} by the gateway"
            )
    return Equality(len(sample), identical, largest, tuple(differing))


def _distance(one: float, other: float, *, is_relative: bool) -> float:
    """The difference of two numbers in 32 bits."""
    import numpy as np

    left, right = float(np.float32(one)), float(np.float32(other))
    size = max(abs(left), abs(right)) if is_relative else 1.0
    return abs(left - right) / size if left != right else 0.0
