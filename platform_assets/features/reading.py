"""Read and validate a source; errors name everything that is wrong, with its row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from platform_assets.features.records import final_fingerprint
from platform_assets.features.rules import (
    check_class_weights,
    check_features,
    check_keys,
    check_target,
    check_weights,
)
from platform_assets.features.source import SourceError, open_source
from platform_assets.features.sources.reader import Log, Progress, SourceTable
from platform_assets.model_spec import ModelSpec, SourceSpec
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import TIMELESS as STORED_TIMELESS

TIMELESS: Final = datetime.fromtimestamp(STORED_TIMELESS, UTC)
"""Event time of every row of a model without event times."""


def read_source(spec: ModelSpec, source: SourceResource, log: Log | None = None) -> SourceTable:
    """Read and validate what the model learns from: its own table, or its labels.

    The table has the columns join keys, event timestamp, features (of labels, those of requests),
    target and, where the model has one, weight, in that order. Progress goes to `log` every few
    seconds.

    Raises:
        SourceError: the source cannot be read, or its columns, types, values, keys or classes
            do not fit the model; names the rows.
    """
    rows = read_table(spec.own_table, source, log)
    named = _with_class_names(replace(rows, classes=check_target(rows, spec)), spec)
    check_class_weights(named, spec)
    return named


def read_final_fingerprint(spec: ModelSpec, source: SourceResource, until: datetime) -> str:
    """Read the labels; return the fingerprint of those until a time, as a training records it.

    Raises as `read_source` does.
    """
    rows = read_source(spec, source)
    times = rows.table[spec.event_timestamp].filter(rows.table[spec.target.name].is_valid())
    final = pc.sum(pc.less_equal(times, pa.scalar(until, times.type))).as_py() or 0
    return final_fingerprint(rows.fingerprint, final)


def read_table(spec: SourceSpec, source: SourceResource, log: Log | None = None) -> SourceTable:
    """Read and validate a source as `read_source` does, except for the meaning of its labels."""
    read = open_source(spec, source).read(Progress(log))
    if read.table.num_rows == 0:
        raise SourceError(f"{read.name} has columns and no rows", "add rows to it and run again")
    rows = replace(read, table=_with_keys(read.table, spec))
    check_features(rows, spec)
    check_weights(rows, spec)
    check_keys(rows, spec)
    return rows


def _with_keys(table: pa.Table, spec: SourceSpec) -> pa.Table:
    """Add row numbers and the constant time where the source lacks these columns."""
    rows = table.num_rows
    if spec.join_key.from_row_number:
        numbers = pa.array(np.arange(1, rows + 1, dtype=np.int64))
        table = table.append_column(spec.join_key.name, numbers)
    if spec.event_time is None:
        times = pa.repeat(pa.scalar(TIMELESS, pa.timestamp("us", tz="UTC")), rows)
        table = table.append_column(spec.event_timestamp, times)
    own = [column.name for column in (spec.label_column, spec.weight_column) if column]
    return table.select([*spec.join_key_names, spec.event_timestamp, *spec.feature_names, *own])


def _with_class_names(rows: SourceTable, spec: ModelSpec) -> SourceTable:
    """Replace the source's labels with the class names of the model file."""
    name, words = spec.target.name, spec.target.class_names
    if not words:
        return rows
    labels = rows.table[name]
    numbers = pc.index_in(labels, value_set=pa.array(rows.classes, labels.type))
    column = pc.take(pa.array(words), numbers)
    index = rows.table.schema.get_field_index(name)
    return replace(rows, table=rows.table.set_column(index, name, column), classes=words)
