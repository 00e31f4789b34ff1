"""Copy the outcomes of a model's source next to those sent by clients, to join both.

A release reads the copy, too, since it must not query a source every few seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from platform_assets.features.source import open_source
from platform_assets.features.sources.casting import quoted
from platform_assets.features.sources.reader import Log, Progress
from platform_assets.model_spec import ModelSpec, OutcomeTable
from platform_assets.quality.log_files import LogFiles
from platform_assets.resources.atomic_files import open_replacement
from platform_assets.resources.source import SourceResource

if TYPE_CHECKING:
    import pyarrow as pa


def copy_source_outcomes(
    spec: ModelSpec, source: SourceResource, files: LogFiles, log: Log | None = None
) -> int:
    """Copy the source's outcomes, if the model has such a source; count the rows kept.

    The copy has the columns `entity` (as in the prediction log), `outcome` (text), `known_at`
    (microseconds since the epoch; null without times) and `number` (of the row, from 0). Without
    a source, the copy of an earlier one is removed.

    Raises:
        SourceError: the source cannot be read, or values are not of the model's types.
        OSError: the copy cannot be written.
    """
    from pyarrow import parquet

    path, table = files.source_outcomes, spec.outcome_table
    if table is None:
        path.unlink(missing_ok=True)
        return 0
    rows = outcome_rows(open_source(table, source).read(Progress(log)).table, table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_replacement(path) as file:
        parquet.write_table(rows, file)
    return int(rows.num_rows)


def outcome_rows(table: pa.Table, spec: OutcomeTable) -> pa.Table:
    """Return the columns of the copy from those of the source, in the types of the model."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.append_column("\0number", pa.array(np.arange(table.num_rows)))
    time = None if spec.event_time is None else spec.event_time.name
    wanted = [spec.target.name, *spec.join_key_names, *([] if time is None else [time])]
    for name in wanted:
        table = table.filter(pc.is_valid(table[name]))
    at = pa.nulls(table.num_rows, pa.int64())
    if time is not None:
        at = pc.cast(table[time], pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return pa.table(
        {
            "entity": _entities(table, spec),
            "outcome": _outcomes(table[spec.target.name], spec),
            "known_at": at,
            "number": table["\0number"],
        }
    )


def _outcomes(column: pa.ChunkedArray, spec: OutcomeTable) -> pa.ChunkedArray:
    """Return the true values as texts, classes by the model's names for them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = spec.target.class_names
    if not names:
        return pc.cast(column, pa.string())
    classes = pa.array(list(spec.target.classes), column.type)
    # A value that is not a class is kept and counted as unusable.
    named = pc.take(pa.array(list(names)), pc.index_in(column, value_set=classes))
    return pc.coalesce(named, pc.cast(column, pa.string()))


def _entities(table: pa.Table, spec: OutcomeTable) -> pa.ChunkedArray:
    """Return the keys of each row in the format of the prediction log."""
    import duckdb
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = spec.join_key_names
    if len(keys) == 1:
        return pc.cast(table[keys[0]], pa.string())
    columns = pa.table({f"k{at}": table[key] for at, key in enumerate(keys)})
    with duckdb.connect() as database:
        database.register("keys", columns)
        parts = ", ".join(f"{quoted(key)}, k{at}" for at, key in enumerate(keys))
        query = f"SELECT json_object({parts})::VARCHAR AS entity FROM keys"  # noqa: S608 -- names
        entities: pa.Table = database.sql(query).to_arrow_table()
    return entities["entity"]
