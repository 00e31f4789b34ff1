"""Population stability index of columns. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.monitoring.binning import fit
from platform_assets.monitoring.novelty import novelty
from platform_assets.monitoring.records import ColumnDrift
from platform_assets.monitoring.units import Columns, Units, effective_rows

_FALSE_ALARMS: Final = 0.001
"""Rate of false alarms by chance, over all columns, if the distributions are equal."""
_EMPTY: Final = 1e-4
"""Least share that an empty bin counts as having."""


@dataclass(frozen=True)
class ComparedRows:
    """One side of a comparison: rows by column, and the entity or request of each."""

    columns: Columns
    units: Units

    @property
    def unit_count(self) -> int:
        """Number of entities or requests."""
        return int(self.units.max(initial=-1)) + 1


def compare_columns(
    reference: ComparedRows, current: ComparedRows, *, kind: str, drift_limit: float
) -> tuple[ColumnDrift, ...]:
    """Compare the columns of the reference with those of the window, which must have them all.

    `kind` is `feature` or `prediction`, `drift_limit` the population stability index above which
    a column has drifted.

    Raises:
        ValueError: one of the sides has no rows.
    """
    for side, rows in (("reference", reference), ("window", current)):
        if not len(rows.units):
            raise ValueError(f"the {side} has no rows of {', '.join(reference.columns)}")
    confidence = 1 - _FALSE_ALARMS / max(1, len(reference.columns))
    return tuple(
        _compare(name, kind, reference, current, drift_limit, confidence)
        for name in reference.columns
    )


def _compare(
    name: str,
    kind: str,
    reference: ComparedRows,
    current: ComparedRows,
    drift_limit: float,
    confidence: float,
) -> ColumnDrift:
    bins = fit(reference.columns[name], min(reference.unit_count, current.unit_count))
    sides = [(side.columns[name], side.units) for side in (reference, current)]
    coded = [(bins.codes(values), units) for values, units in sides]
    shares = [np.bincount(codes, minlength=len(bins.labels)) / len(codes) for codes, _ in coded]
    used = (shares[0] > 0) | (shares[1] > 0)
    worth = effective_rows(*coded[0]), effective_rows(*coded[1])
    chance = chance_index(int(used.sum()), *worth, confidence)
    return ColumnDrift(
        name=name,
        kind=kind,
        psi=stability_index(shares[0][used], shares[1][used], *worth),
        limit=max(drift_limit, chance),
        chance=chance,
        missing_reference=float(shares[0][-1]),
        missing_current=float(shares[1][-1]),
        novelty=None if bins.ordered else novelty(*sides[0], *sides[1], confidence),
        bins=tuple(label for label, use in zip(bins.labels, used, strict=True) if use),
        reference=tuple(shares[0][used].tolist()),
        current=tuple(shares[1][used].tolist()),
    )


def chance_index(bins: int, reference_rows: float, rows: float, confidence: float) -> float:
    """Return the index that samples of one distribution stay below with this confidence.

    The index of equal distributions follows (1/n + 1/m) chi-squared of bins - 1 degrees of
    freedom (Yurdakul, Statistical Properties of Population Stability Index, 2018).
    """
    from scipy.stats import chi2

    if bins < 2:
        return 0.0
    return float(chi2.ppf(confidence, bins - 1)) * (1 / reference_rows + 1 / rows)


def stability_index(
    reference: NDArray[np.float64],
    current: NDArray[np.float64],
    reference_rows: float,
    rows: float,
) -> float:
    """Return the population stability index of the bins' shares; 0 means no change.

    An empty bin counts as half a row: the index contains a logarithm, and few rows leave bins
    empty by chance.
    """
    before = np.maximum(reference, max(_EMPTY, 0.5 / reference_rows))
    now = np.maximum(current, max(_EMPTY, 0.5 / rows))
    return float(((now - before) * np.log(now / before)).sum())
