"""Bins that fit the reference, and any column put into them. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from serving_gateway.contract import DType

MISSING: Final = "(missing)"
OTHER: Final = "(other)"

_LEAST_BINS: Final = 3
_MOST_BINS: Final = 10
_ROWS_PER_BIN: Final = 25
"""With fewer rows in a bin its share is mostly chance."""
_ROWS_PER_CATEGORY: Final = 5


class Bins(Protocol):
    """A way to put values into bins; the last bin is always that of missing values."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Words for the bins, in the order of the codes."""

    def codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bin of each value, shape (rows,)."""


def comparable(values: pd.Series[Any], dtype: DType) -> NDArray[Any]:
    """Return a column in the form that bins take.

    Numbers become float64 with NaN for missing, by way of float32 where that is the column's
    type: a value that went through JSON must equal the one that it was. Text and booleans
    become objects, None for missing; empty text is missing.
    """
    import numpy as np
    import pandas as pd

    if dtype.value in {"FP32", "FP64", "INT64"}:
        numbers = pd.to_numeric(values, errors="coerce").astype("float64").to_numpy()
        if dtype.value == "FP32":
            with np.errstate(over="ignore"):
                numbers = numbers.astype(np.float32).astype(np.float64)
        return numbers
    texts = np.empty(len(values), dtype=object)
    texts[:] = [None if pd.isna(value) else as_text(value) or None for value in values]
    return texts


def as_text(value: object) -> str:
    """Return a label as samples hold it: `true` and `false`, else Python's own text."""
    # numpy's booleans are no bool.
    if type(value).__name__ in {"bool", "bool_"}:
        return "true" if value else "false"
    return str(value)


def fit(reference: NDArray[Any], rows: int) -> Bins:
    """Return bins for a column, made from its reference alone.

    Args:
        reference: what `comparable` returned, shape (reference rows,).
        rows: rows of the window that will be compared; few rows make few bins.
    """
    fewest = min(len(reference), rows)
    if reference.dtype.kind == "f":
        return fit_numbers(reference, max(_LEAST_BINS, min(_MOST_BINS, fewest // _ROWS_PER_BIN)))
    return fit_texts(reference, _ROWS_PER_CATEGORY / max(fewest, 1))


@dataclass(frozen=True)
class NumberBins:
    """Intervals of equal share of the reference; open at both ends.

    A value that alone fills more than one of them (`atoms`) is a bin of its own: with most
    rows 0, a move to -1 must not stay in the same interval.
    """

    edges: NDArray[np.float64]
    """Upper ends of all intervals but the last, ascending."""
    atoms: NDArray[np.float64]
    """Those of the edges that are a bin of their own."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Words for the intervals."""
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
        """Return the interval of each value; infinities stand in the outer ones."""
        import numpy as np

        below = np.searchsorted(self.edges, values, side="left")
        past_atoms = np.searchsorted(self.atoms, values, side="right")
        codes = (below + past_atoms).astype(np.int64)
        codes[np.isnan(values)] = len(self.labels) - 1
        return codes


def _interval(lower: float | None, upper: float, *, closed: bool) -> str:
    sign = "≤" if closed else "<"
    return f"{sign} {upper:.4g}" if lower is None else f"{lower:.4g} < x {sign} {upper:.4g}"


def fit_numbers(reference: NDArray[np.float64], bins: int) -> NumberBins:
    """Return intervals that hold equal shares of the finite values of the reference."""
    import numpy as np

    finite = reference[np.isfinite(reference)]
    if not finite.size:
        return NumberBins(np.empty(0), np.empty(0))
    # Values of the column itself: between two of them an edge would depend on rounding.
    quantiles = np.quantile(finite, np.arange(1, bins) / bins, method="lower")
    edges, counts = np.unique(quantiles, return_counts=True)
    return NumberBins(edges, edges[counts > 1])


@dataclass(frozen=True)
class TextBins:
    """A bin per category that is frequent in the reference, one for all others."""

    categories: tuple[str, ...]
    known: frozenset[str]
    """All texts of the reference."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The categories themselves."""
        return (*self.categories, OTHER, MISSING)

    def codes(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the category of each value."""
        import numpy as np

        place: dict[str | None, int] = {name: code for code, name in enumerate(self.categories)}
        other = len(self.categories)
        place[None] = other + 1
        return np.fromiter((place.get(v, other) for v in values), np.int64, count=len(values))

    def unseen(self, values: NDArray[Any]) -> Counter[str]:
        """Count the texts that never stood in the reference."""
        return Counter(value for value in values if value is not None and value not in self.known)


def fit_texts(reference: NDArray[Any], least_share: float) -> TextBins:
    """Return the categories that have at least `least_share` of the reference's rows."""
    counts = Counter(value for value in reference if value is not None)
    frequent = [name for name, count in counts.items() if count >= least_share * len(reference)]
    return TextBins(tuple(sorted(frequent)), frozenset(counts))
