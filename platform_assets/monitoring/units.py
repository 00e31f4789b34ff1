"""Group dependent rows, and compute their effective number of independent rows."""

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
"""Numbers from 0, shape (rows,); rows of one entity or request share a number."""

_IDENTIFYING: Final = 0.95
"""Share of distinct rows from which equal rows are taken to be the same entity."""


def window_units(table: pa.Table, features: Columns, *, identifying: bool) -> Units:
    """Number the rows of a window: rows of one entity, or of one request, share a number.

    With fewer than `FEWEST_UNITS` requests, such as a few large batches, each row counts.
    `features` are the features of the samples, comparable; with `identifying`, requests with the
    same rows are taken to be about the same entity.
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
        named = {id_: f"entity {first_key(str(id_))}" for id_ in entities[known].unique()}
        names[known] = [named[id_] for id_ in entities[known]]
    return pd.factorize(names)[0].astype(np.int64)


def is_identifying(columns: Columns, units: Units) -> bool:
    """Whether rows of different entities hardly ever have the same values."""
    first = np.unique(units, return_index=True)[1]
    contents = _contents({name: values[first] for name, values in columns.items()})
    return len(np.unique(contents)) >= _IDENTIFYING * len(first)


def _contents(columns: Columns) -> NDArray[np.uint64]:
    import pandas as pd

    hashes = pd.util.hash_pandas_object(pd.DataFrame(columns), index=False)
    return np.asarray(hashes, dtype=np.uint64)


def effective_rows(codes: NDArray[np.int64], units: Units) -> float:
    """Return the number of independent rows that determine the bins' shares as well as these.

    The more the rows of a unit are alike, the less they count (the design effect of Rao and
    Scott, The Analysis of Categorical Data From Complex Sample Surveys, 1981). `codes` are the
    bins of the rows, `units` come from `window_units`, both of shape (rows,).
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
