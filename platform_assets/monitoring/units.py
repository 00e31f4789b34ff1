"""Group dependent rows, and compute how many independent rows they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.monitoring.records import FEWEST_UNITS
from platform_assets.resources.samples import first_key
from serving_gateway.contract import LOG_ENTITY, LOG_TIME

if TYPE_CHECKING:
    import pyarrow as pa

Columns = dict[str, NDArray[Any]]
"""Columns by name, each as `binning.comparable` returns it, shape (rows,)."""
Units = NDArray[np.int64]
"""Numbers from 0, shape (rows,); rows with the same one are of one entity or request."""

_IDENTIFYING: Final = 0.95
"""Share of different rows from which equal ones are taken for the same entity again."""


def window_units(table: pa.Table, features: Columns, *, identifying: bool) -> Units:
    """Number the rows of a window: equal numbers are rows of one entity, or of one request.

    Of fewer than `FEWEST_UNITS` requests each row counts, as those of a few large batches do.
    `features` are the features of the samples, comparable; with `identifying`, requests with the
    same rows are about the same entity again.
    """
    import pandas as pd

    request = np.unique(table[LOG_TIME].to_numpy(), return_inverse=True)[1]
    if request.max(initial=-1) + 1 < FEWEST_UNITS:
        request = np.arange(len(request))
    names = np.char.add("request ", request.astype(str)).astype(object)
    if identifying and features:
        content = np.zeros(int(request.max(initial=-1)) + 1, dtype=np.uint64)
        np.add.at(content, request, _contents(features))
        names = np.char.add("content ", content[request].astype(str)).astype(object)
    if LOG_ENTITY in table.column_names:
        entities = table[LOG_ENTITY].to_pandas()
        known = entities.notna().to_numpy()
        named = {one: f"entity {first_key(str(one))}" for one in entities[known].unique()}
        names[known] = [named[one] for one in entities[known]]
    return pd.factorize(names)[0].astype(np.int64)


def is_identifying(columns: Columns, units: Units) -> bool:
    """Whether rows of different entities hardly ever hold the same values."""
    first = np.unique(units, return_index=True)[1]
    contents = _contents({name: values[first] for name, values in columns.items()})
    return len(np.unique(contents)) >= _IDENTIFYING * len(first)


def _contents(columns: Columns) -> NDArray[np.uint64]:
    import pandas as pd

    hashes = pd.util.hash_pandas_object(pd.DataFrame(columns), index=False)
    return np.asarray(hashes, dtype=np.uint64)


def effective_rows(codes: NDArray[np.int64], units: Units) -> float:
    """Return how many independent rows tell as much of the shares of the bins as these.

    Rows are worth less the more those of a unit are alike (the design effect of Rao and Scott,
    The Analysis of Categorical Data From Complex Sample Surveys, 1981). `codes` are the bins of the
    rows, `units` those of `window_units`, both of shape (rows,).
    """
    rows, count = len(codes), int(units.max()) + 1
    used, codes = np.unique(codes, return_inverse=True)
    if count == rows or len(used) < 2:
        return float(rows)
    if count < 2:
        return 1.0
    cells = np.bincount(units * len(used) + codes, minlength=count * len(used))
    table = cells.reshape(count, len(used)).astype(np.float64)
    shares = table.sum(axis=0) / rows
    off = table - table.sum(axis=1, keepdims=True) * shares
    variances = count / (count - 1) * (off**2).sum(axis=0) / rows**2
    effect = float((variances / shares).sum()) * rows / (len(used) - 1)
    return rows / max(1.0, effect)
