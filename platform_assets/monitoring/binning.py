"""Bins fitted to the reference, and the binning of any column. Pure."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from serving_gateway.contract import DType

MISSING: Final = "(missing)"
OTHER: Final = "(other)"

_LEAST_BINS: Final = 3
_MOST_BINS: Final = 10
_ROWS_PER_BIN: Final = 25
"""With fewer rows in a bin, its share is mostly chance."""
_ROWS_PER_CATEGORY: Final = 10
_MOST_CATEGORIES: Final = 50


def comparable(values: pd.Series[Any], dtype: DType) -> NDArray[Any]:
    """Return a column in the form that the bins expect.

    Numbers become float64 with NaN for missing, by way of float32 if that is the column's type: a
    value that went through JSON must equal the original. Text and booleans (also in tensor form)
    become objects, None for missing; empty text is missing.
    """
    import pandas as pd

    if dtype.value in {"FP32", "FP64", "INT64"}:
        numbers = pd.to_numeric(values, errors="coerce").astype("float64").to_numpy()
        if dtype.value == "FP32":
            with np.errstate(over="ignore"):
                numbers = numbers.astype(np.float32).astype(np.float64)
        return numbers
    if dtype.value == "BOOL":
        values = values.map(bool, na_action="ignore")
    texts = np.empty(len(values), dtype=object)
    texts[:] = [None if pd.isna(value) else as_text(value) or None for value in values]
    return texts


def as_text(value: object) -> str:
    """Return a label as written in samples: `true` and `false`, else Python's own text."""
    # NumPy's booleans are not bool.
    if type(value).__name__ in {"bool", "bool_"}:
        return "true" if value else "false"
    return str(value)


def fit(reference: NDArray[Any], rows: int) -> NumberBins | TextBins:
    """Return bins for a column, fitted to its reference alone; the last is for missing values.

    `reference` comes from `comparable`, shape (reference rows,); `rows` is the number of
    independent rows on the smaller side: few rows make few bins.
    """
    fewest = min(len(reference), rows)
    if reference.dtype.kind == "f":
        return fit_numbers(reference, max(_LEAST_BINS, min(_MOST_BINS, fewest // _ROWS_PER_BIN)))
    return fit_texts(reference, fewest)


@dataclass(frozen=True)
class NumberBins:
    """Intervals with equal shares of the reference, unbounded at both ends.

    A value that would fill more than one of them (`atoms`) gets its own bin: if most rows are 0,
    a move to -1 must not stay in the same interval.
    """

    ordered: ClassVar[bool] = True
    edges: NDArray[np.float64]
    """Upper bounds of all intervals but the last, ascending."""
    atoms: NDArray[np.float64]
    """Edges with a bin of their own."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names of the intervals."""
        atoms = set(self.atoms.tolist())
        labels, lower = [], None
        for edge in self.edges.tolist():
            closed = edge not in atoms
            labels.append(_interval(lower, edge, closed=closed))
            if not closed:
                labels.append(f"= {edge:.4g}")
            lower = edge
        labels.append("any value" if lower is None else f"> {lower:.4g}")
        return (*labels, MISSING)

    def codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the interval of each value; infinities are in the outermost ones."""
        below = np.searchsorted(self.edges, values, side="left")
        past_atoms = np.searchsorted(self.atoms, values, side="right")
        codes = (below + past_atoms).astype(np.int64)
        codes[np.isnan(values)] = len(self.labels) - 1
        return codes


def _interval(lower: float | None, upper: float, *, closed: bool) -> str:
    sign = "≤" if closed else "<"
    return f"{sign} {upper:.4g}" if lower is None else f"{lower:.4g} < x {sign} {upper:.4g}"


def fit_numbers(reference: NDArray[np.float64], bins: int) -> NumberBins:
    """Return intervals with equal shares of the reference's finite values."""
    finite = reference[np.isfinite(reference)]
    if not finite.size:
        return NumberBins(np.empty(0), np.empty(0))
    # Edges are values of the column itself: between two values they would depend on rounding.
    quantiles = np.quantile(finite, np.arange(1, bins) / bins, method="lower")
    edges, counts = np.unique(quantiles, return_counts=True)
    return NumberBins(edges, edges[counts > 1])


@dataclass(frozen=True)
class TextBins:
    """A bin per frequent category of the reference; all others share a few, by hash."""

    ordered: ClassVar[bool] = False
    categories: tuple[str, ...]
    groups: int = 1
    """Number of bins that the others share."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The categories themselves, and display names for the bins of the others."""
        if self.groups == 1:
            return (*self.categories, OTHER, MISSING)
        others = (f"(other, {group + 1} of {self.groups})" for group in range(self.groups))
        return (*self.categories, *others, MISSING)

    def codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the category of each value."""
        first = len(self.categories)
        place: dict[str | None, int] = {name: code for code, name in enumerate(self.categories)}
        place[None] = first + self.groups
        for value in set(values.tolist()) - place.keys():
            place[value] = first + zlib.crc32(value.encode()) % self.groups
        return np.fromiter((place[value] for value in values), np.int64, count=len(values))


def fit_texts(reference: NDArray[Any], rows: int) -> TextBins:
    """Return bins for a comparison of `rows` independent texts."""
    counts = Counter(value for value in reference if value is not None)
    least = _ROWS_PER_CATEGORY / max(rows, 1) * len(reference)
    common = counts.most_common(_MOST_CATEGORIES)
    frequent = [name for name, count in common if count >= least]
    rare = counts.total() - sum(counts[name] for name in frequent)
    groups = rare * rows // (_ROWS_PER_BIN * max(len(reference), 1))
    return TextBins(tuple(sorted(frequent)), max(1, min(_MOST_BINS, groups)))
