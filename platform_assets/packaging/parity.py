"""Compare a runtime's answers with those of the training library, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

PROBABILITY_TOLERANCE: Final = 1e-4
"""Largest allowed difference of a probability: float32 kernels against scikit-learn's float64."""

_ROWS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison over the whole evaluation set found."""

    rows: int
    label_mismatches: int
    largest_probability_difference: float
    """0.0 when the model has no probabilities."""
    tolerance: float
    differing_rows: tuple[int, ...]
    """Positions of the first rows that differ, at most ten."""

    @property
    def holds(self) -> bool:
        """Whether every label is equal and every probability within the tolerance."""
        return (
            self.rows > 0
            and self.label_mismatches == 0
            and self.largest_probability_difference <= self.tolerance
        )

    def metadata(self) -> dict[str, int | float | str]:
        """Return the numbers for a Dagster check."""
        return {
            "rows": self.rows,
            "label_mismatches": self.label_mismatches,
            "largest_probability_difference": self.largest_probability_difference,
            "tolerance": self.tolerance,
            "differing_rows": ", ".join(map(str, self.differing_rows)) or "none",
        }


def compare(
    labels: np.ndarray[Any, Any],
    probabilities: np.ndarray[Any, Any] | None,
    expected_labels: np.ndarray[Any, Any],
    expected_probabilities: np.ndarray[Any, Any] | None,
    tolerance: float = PROBABILITY_TOLERANCE,
) -> Parity:
    """Compare answers with what is expected of them.

    Args:
        labels: [n] or [n, 1] predicted labels.
        probabilities: [n, classes], or None for a model without them.
        expected_labels: [n] labels by the training library.
        expected_probabilities: [n, classes] by the training library, or None.
        tolerance: largest allowed absolute difference of a probability.

    Raises:
        ValueError: the answers have another number of rows or classes than expected, or only
            one side has probabilities.
    """
    import numpy as np

    got = labels.reshape(-1)
    if got.shape != expected_labels.shape:
        raise ValueError(f"{got.shape[0]} answers for {expected_labels.shape[0]} rows")
    label_differs = got != expected_labels
    if (probabilities is None) != (expected_probabilities is None):
        raise ValueError("only one side has probabilities")
    differs = label_differs
    largest = 0.0
    if probabilities is not None and expected_probabilities is not None:
        if probabilities.shape != expected_probabilities.shape:
            raise ValueError(
                f"probabilities {probabilities.shape}, expected {expected_probabilities.shape}"
            )
        # A NaN must not slip through a comparison: it counts as infinitely far away.
        distance = np.abs(probabilities.astype(np.float64) - expected_probabilities)
        distance = np.where(np.isnan(distance), np.inf, distance)
        largest = float(distance.max(initial=0.0))
        differs = label_differs | (distance.max(axis=1, initial=0.0) > tolerance)
    return Parity(
        rows=len(got),
        label_mismatches=int(label_differs.sum()),
        largest_probability_difference=largest,
        tolerance=tolerance,
        differing_rows=tuple(int(row) for row in np.flatnonzero(differs)[:_ROWS_SHOWN]),
    )
