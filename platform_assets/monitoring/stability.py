"""Population stability of columns, by feature-engine. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from platform_assets.monitoring.binning import TextBins, fit
from platform_assets.monitoring.records import ColumnDrift

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHANCE: Final = 0.999
"""Confidence of the index that equal distributions give by chance."""
_EXAMPLES: Final = 3


def compare_columns(
    reference: Mapping[str, NDArray[Any]],
    current: Mapping[str, NDArray[Any]],
    *,
    kind: str,
    drift_limit: float,
) -> tuple[ColumnDrift, ...]:
    """Compare columns of the same names.

    Args:
        reference: name -> what `binning.comparable` returned, shape (reference rows,).
        current: the same for the window, shape (window rows,).
        kind: `feature` or `prediction`.
        drift_limit: population stability index from which a column has drifted.

    Raises:
        ValueError: one of the sides has no rows.
    """
    for side, columns in (("reference", reference), ("window", current)):
        empty = [name for name, values in columns.items() if not len(values)]
        if empty:
            raise ValueError(f"the {side} has no rows of {', '.join(empty)}")
    bins = {name: fit(values, len(current[name])) for name, values in reference.items()}
    before = {name: bins[name].codes(values) for name, values in reference.items()}
    now = {name: bins[name].codes(current[name]) for name in reference}
    indices = stability_indices(before, now)
    return tuple(
        _column(
            name,
            kind,
            indices[name],
            fitted.labels,
            before[name],
            now[name],
            unseen=fitted.unseen(current[name]) if isinstance(fitted, TextBins) else Counter(),
            drift_limit=drift_limit,
        )
        for name, fitted in bins.items()
    )


def _column(
    name: str,
    kind: str,
    psi: float,
    labels: Sequence[str],
    before: NDArray[np.int64],
    now: NDArray[np.int64],
    *,
    unseen: Counter[str],
    drift_limit: float,
) -> ColumnDrift:
    import numpy as np

    shares = [np.bincount(codes, minlength=len(labels)) / len(codes) for codes in (before, now)]
    used = (shares[0] > 0) | (shares[1] > 0)
    chance = chance_index(int(used.sum()), len(before), len(now))
    return ColumnDrift(
        name=name,
        kind=kind,
        psi=psi,
        limit=max(drift_limit, chance),
        chance=chance,
        missing_reference=float(shares[0][-1]),
        missing_current=float(shares[1][-1]),
        unseen=unseen.total() / len(now),
        examples=tuple(text for text, _ in unseen.most_common(_EXAMPLES)),
        bins=tuple(label for label, use in zip(labels, used, strict=True) if use),
        reference=tuple(shares[0][used].tolist()),
        current=tuple(shares[1][used].tolist()),
    )


def chance_index(bins: int, reference_rows: int, rows: int) -> float:
    """Return the index that samples of one and the same distribution stay below, 999 in 1000.

    The index of equal distributions follows (1/n + 1/m) chi-squared of bins - 1 degrees of
    freedom (Yurdakul, Statistical Properties of Population Stability Index, 2018).
    """
    from scipy.stats import chi2

    if bins < 2:
        return 0.0
    return float(chi2.ppf(_CHANCE, bins - 1)) * (1 / reference_rows + 1 / rows)


def stability_indices(
    reference: Mapping[str, NDArray[np.int64]], current: Mapping[str, NDArray[np.int64]]
) -> dict[str, float]:
    """Return the population stability index of columns of bin codes; 0 is no change.

    Args:
        reference: name -> bin of each row, shape (reference rows,).
        current: the same names, shape (window rows,).
    """
    if not reference:
        return {}
    import numpy as np
    import pandas as pd
    from feature_engine.selection import DropHighPSIFeatures

    # Names of our own: a feature may be called as the column that splits. Categories that are
    # numbers, since the library would try to read texts as dates, each row for itself.
    names = {name: f"column_{place}" for place, name in enumerate(reference)}
    columns = {
        names[name]: pd.Categorical(np.concatenate([codes, current[name]]))
        for name, codes in reference.items()
    }
    before, now = (len(next(iter(side.values()))) for side in (reference, current))
    frame = pd.DataFrame({**columns, "side": ["reference"] * before + ["window"] * now})
    selector = DropHighPSIFeatures(
        split_col="side", cut_off=["reference"], bins=2, variables=list(columns)
    )
    selector.fit(frame)
    return {name: float(selector.psi_values_[column]) for name, column in names.items()}
