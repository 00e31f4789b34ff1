"""Rows as Feast's online stores take them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

_FIELDS: Final = {
    "FLOAT": "float_val",
    "DOUBLE": "double_val",
    "INT64": "int64_val",
    "BOOL": "bool_val",
    "STRING": "string_val",
}
"""By Feast's value type, the field of its value that holds one."""

Row = tuple[Any, dict[str, Any], datetime, datetime | None]
"""Entity key, values by feature, event time, time of creation: what a store writes."""


def online_rows(batch: pa.RecordBatch, view: Any) -> list[Row]:
    """Turn a batch into rows of a feature view; a null becomes a value without one.

    Args:
        batch: the columns of the view, of any number of rows.
        view: Feast's own object.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    [key] = view.entity_columns
    times = batch.column(view.batch_source.timestamp_field).to_pylist()
    keys = [
        EntityKey(join_keys=[key.name], entity_values=[value])
        for value in _values(batch.column(key.name), key)
    ]
    names = [feature.name for feature in view.features]
    columns = [_values(batch.column(one.name), one) for one in view.features]
    return [
        (entity, dict(zip(names, values, strict=True)), time, None)
        for entity, time, *values in zip(keys, times, *columns, strict=True)
    ]


def _values(column: pa.Array, field: Any) -> list[Any]:
    from feast.protos.feast.types.Value_pb2 import Value

    name = _FIELDS[field.dtype.to_value_type().name]
    missing = Value()
    return [missing if value is None else Value(**{name: value}) for value in column.to_pylist()]
