"""Rows as Feast's online stores take and return them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Row = tuple[Any, dict[str, Any], datetime, datetime | None]
"""Entity key, values by feature, event time, time of creation: what a store writes."""


def entity_keys(ids: Iterable[Any], view: Any) -> list[Any]:
    """Return Feast's keys of entities of a view (Feast's own object)."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    [key] = view.entity_columns
    return [
        EntityKey(join_keys=[key.name], entity_values=[value]) for value in _values([*ids], key)
    ]


def online_rows(batch: pa.RecordBatch, view: Any) -> list[Row]:
    """Turn a batch of the columns of a view (Feast's own object) into its rows.

    A null becomes a value without content.
    """
    keys = entity_keys(batch.column(view.entity_columns[0].name).to_pylist(), view)
    times = batch.column(view.batch_source.timestamp_field).to_pylist()
    names = [feature.name for feature in view.features]
    columns = [_values(batch.column(one.name).to_pylist(), one) for one in view.features]
    return [
        (entity, dict(zip(names, values, strict=True)), time, None)
        for entity, time, *values in zip(keys, times, *columns, strict=True)
    ]


def plain_value(value: Any) -> Any:
    """Return the content of Feast's value as the gateway reads it.

    None for one that is unset, NaN or an empty text.
    """
    kind = None if value is None else value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    plain = getattr(value, kind)
    return None if plain == "" or plain != plain else plain  # noqa: PLR0124 -- NaN


def _values(plain: list[Any], field: Any) -> list[Any]:
    from feast.protos.feast.types.Value_pb2 import Value

    name = f"{field.dtype.to_value_type().name.lower()}_val"
    missing = Value()
    return [missing if value is None else Value(**{name: value}) for value in plain]
