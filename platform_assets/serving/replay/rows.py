"""Logged rows as a version reads them again: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.resources.samples import first_key
from serving_gateway.contract import LOG_ENTITY, LOG_ID, LOG_TIME, DType, Feature, Signature

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_NUMPY: Final = {
    DType.FP32: np.float32,
    DType.FP64: np.float64,
    DType.INT64: np.int64,
    DType.BOOL: np.bool_,
}


class LogMismatchError(Exception):
    """The log holds a feature as another type than a version reads; the message says which."""


def complete_rows(table: pa.Table, signatures: Sequence[Signature]) -> pa.Table:
    """Return the rows that all of the versions can read, in their order.

    Files of before a feature was added lack it, which is null here, as what may be missing is.
    """
    from pyarrow import compute

    required = {
        one.name
        for signature in signatures
        for one in signature.features
        if not one.nullable and one.dtype is not DType.BYTES
    }
    for name in sorted(required):
        table = table.filter(compute.is_valid(table[name]))
    return table


def tensor_frame(signature: Signature, table: pa.Table) -> pd.DataFrame:
    """Return the rows in tensor form, a column for each feature of a signature, in its order.

    Raises:
        LogMismatchError: a column is of another type, or holds a value that its type cannot hold.
    """
    import pandas as pd

    return pd.DataFrame({one.name: _column(one, table[one.name]) for one in signature.features})


def _column(feature: Feature, column: pa.ChunkedArray) -> NDArray[Any]:
    import pyarrow as pa

    kinds = pa.types
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = kinds.is_string(column.type) or kinds.is_large_string(column.type)
    if not kinds.is_null(column.type) and is_text != (feature.dtype is DType.BYTES):
        raise LogMismatchError(f"{feature.name} as {column.type}, not as {feature.dtype.value}")
    if feature.dtype is DType.BYTES:
        texts = np.empty(len(column), dtype=object)
        texts[:] = [one or "" for one in column.to_pylist()]
        return texts
    wanted = _NUMPY[feature.tensor_dtype]
    exact = feature.tensor_dtype not in {DType.FP32, DType.FP64}
    try:
        numbers = column.cast(pa.from_numpy_dtype(wanted), safe=exact)
    except pa.ArrowInvalid as error:
        raise LogMismatchError(f"{feature.name} with values that are not whole: {error}") from error
    return np.asarray((numbers if exact else numbers.fill_null(np.nan)).to_numpy(), dtype=wanted)


def units(table: pa.Table) -> NDArray[np.int64]:
    """Number the rows, shape (rows,): equal numbers are of one entity, or of one request.

    Such rows are alike, so that many of them show little more than one does.
    """
    import pandas as pd

    names = ("time " + table[LOG_TIME].to_pandas().astype(str)).to_numpy(dtype=object)
    for column, word in ((LOG_ID, "request"), (LOG_ENTITY, "entity")):
        if column in table.column_names:  # older files have neither
            found = table[column].to_pandas()
            known = found.notna().to_numpy()
            names[known] = [f"{word} {first_key(str(one))}" for one in found[known]]
    return np.asarray(pd.factorize(names)[0], dtype=np.int64)
