"""What a drift report says, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FEATURE: Final = "feature"
PREDICTION: Final = "prediction"


@dataclass(frozen=True, slots=True)
class ColumnDrift:
    """One column of the window against the same column of the reference.

    `bins` are words for intervals or categories; `reference` and `current` the share of the
    rows in each (0-1), in the same order. `limit` is the greater of the model's own limit and
    of what `chance` alone gives with so few rows. `unseen` is the share of the window's rows
    whose text never stood in the reference, `examples` the most frequent such texts.
    """

    name: str
    kind: str
    """`feature` or `prediction`."""
    psi: float
    limit: float
    chance: float
    missing_reference: float
    missing_current: float
    unseen: float
    examples: tuple[str, ...]
    bins: tuple[str, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]

    @property
    def drifted(self) -> bool:
        """Whether the population stability index is over the limit."""
        return self.psi > self.limit


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What was compared and what was found; `columns` is empty when there were too few rows."""

    model_name: str
    version: int
    rows: int
    """Samples in the window."""
    min_rows: int
    """Fewest samples that are judged."""
    reference_rows: int
    drift_limit: float
    columns: tuple[ColumnDrift, ...]
    not_compared: tuple[str, ...] = ()
    """What could not be compared, each with the reason."""

    @property
    def enough(self) -> bool:
        """Whether there were enough samples to judge."""
        return self.rows >= self.min_rows

    @property
    def worst_first(self) -> tuple[ColumnDrift, ...]:
        """The columns, the one furthest over its limit first."""
        return tuple(sorted(self.columns, key=lambda column: -column.psi / column.limit))

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """Those over their limit, the worst first."""
        return tuple(column for column in self.worst_first if column.drifted)
