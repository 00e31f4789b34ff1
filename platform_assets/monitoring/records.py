"""Records of a drift report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FEATURE: Final = "feature"
PREDICTION: Final = "prediction"
FEWEST_UNITS: Final = 20
"""Fewest entities or requests for a verdict: with fewer no variance can be estimated."""


@dataclass(frozen=True, slots=True)
class Novelty:
    """New and vanished texts, as shares (0-1) of each side, with their limits.

    `unseen` texts of the window do not occur in the reference, `examples` are the most frequent
    of them; `vanished` texts of the reference do not occur in the window.
    """

    unseen: float
    unseen_limit: float
    vanished: float
    vanished_limit: float
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column of the window compared with the same column of the reference.

    `bins` are display names of intervals or categories; `reference` and `current` the shares of
    the rows in each (0-1), in the same order. `limit` is the greater of the model's own limit and
    of `chance`, the index by chance alone with so few entities or requests.
    """

    name: str
    kind: str
    """`feature` or `prediction`."""
    psi: float
    limit: float
    chance: float
    missing_reference: float
    missing_current: float
    novelty: Novelty | None
    """None for numbers."""
    bins: tuple[str, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]

    @property
    def drifted(self) -> bool:
        """Whether the index, the unseen or the vanished texts exceed their limit."""
        return self.excess > 1

    @property
    def excess(self) -> float:
        """The measure furthest over its limit, as a multiple of the limit."""
        return max(value / limit for value, limit, _ in self._measures())

    @property
    def finding(self) -> str:
        """The measure furthest over its limit, in words."""
        return max(self._measures(), key=lambda measure: measure[0] / measure[1])[2]

    def _measures(self) -> list[tuple[float, float, str]]:
        measures = [(self.psi, self.limit, f"{self.psi:.3f} > {self.limit:.3f}")]
        if self.novelty is not None:
            new = self.novelty
            measures += [
                (new.unseen, new.unseen_limit, f"{new.unseen:.1%} never seen before"),
                (new.vanished, new.vanished_limit, f"{new.vanished:.1%} of before vanished"),
            ]
        return measures


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The comparison and its results; `columns` is empty if there were too few rows.

    The window has `rows` samples of `units` entities, or requests without entities; fewer than
    `min_rows` are not judged. `not_compared` says what could not be compared, with the reason.
    """

    model_name: str
    version: int
    rows: int
    units: int
    min_rows: int
    reference_rows: int
    drift_limit: float
    columns: tuple[ColumnDrift, ...] = ()
    not_compared: tuple[str, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether there were enough samples of enough entities or requests for a verdict."""
        return self.rows >= self.min_rows and self.units >= FEWEST_UNITS

    @property
    def judged(self) -> bool:
        """Whether anything was compared, or there were too few samples to compare."""
        return bool(self.columns) or not self.enough

    @property
    def worst_first(self) -> tuple[ColumnDrift, ...]:
        """The columns, sorted by how far they are over their limit."""
        return tuple(sorted(self.columns, key=lambda column: -column.excess))

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The columns over their limit, the worst first."""
        return tuple(column for column in self.worst_first if column.drifted)
