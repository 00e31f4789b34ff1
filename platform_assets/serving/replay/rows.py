"""Turn logged rows back into a version's input, without I/O."""

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
    """The log holds a feature in a type that a version does not read; the message says which."""


def complete_rows(table: pa.Table, signatures: Sequence[Signature]) -> pa.Table:
    """Return the rows that all versions can read, in their order.

    Files older than a feature lack its column; it is null here, like any other missing value.
    """
    from pyarrow import compute

    required = {
        feature.name
        for signature in signatures
        for feature in signature.features
        if not feature.nullable and feature.dtype is not DType.BYTES
    }
    for name in sorted(required):
        table = table.filter(compute.is_valid(table[name]))
    return table


def tensor_frame(signature: Signature, table: pa.Table) -> pd.DataFrame:
    """Return the rows in tensor form: one column per feature, in signature order.

    Raises:
        LogMismatchError: a column is of another type, or holds a value that its type cannot hold.
    """
    import pandas as pd

    return pd.DataFrame(
        {feature.name: _column(feature, table[feature.name]) for feature in signature.features}
    )


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
        texts[:] = [text or "" for text in column.to_pylist()]
        return texts
    wanted = _NUMPY[feature.tensor_dtype]
    exact = feature.tensor_dtype not in {DType.FP32, DType.FP64}
    try:
        numbers = column.cast(pa.from_numpy_dtype(wanted), safe=exact)
    except pa.ArrowInvalid as error:
        raise LogMismatchError(f"{feature.name} with values that are not whole: {error}") from error
    return np.asarray((numbers if exact else numbers.fill_null(np.nan)).to_numpy(), dtype=wanted)


def units(table: pa.Table) -> NDArray[np.int64]:
    """Number the rows, shape (rows,): rows of one entity, or of one request, share a number.

    Such rows are alike, so many of them show little more than one does.
    """
    import pandas as pd

    names = ("time " + table[LOG_TIME].to_pandas().astype(str)).to_numpy(dtype=object)
    for column, kind in ((LOG_ID, "request"), (LOG_ENTITY, "entity")):
        if column in table.column_names:  # older files have neither
            ids = table[column].to_pandas()
            known = ids.notna().to_numpy()
            names[known] = [f"{kind} {first_key(str(id_))}" for id_ in ids[known]]
    return np.asarray(pd.factorize(names)[0], dtype=np.int64)
