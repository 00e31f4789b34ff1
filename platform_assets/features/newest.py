"""The newest row of every entity, found with Arrow in batches of rows."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.features.records import FeatureData
from platform_assets.model_spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_BATCH_ROWS: Final = 50_000


def write_newest(data: FeatureData, spec: ModelSpec, path: Path) -> None:
    """Write the rows of `features.parquet` that are the newest of their entity, in its order."""
    import pyarrow as pa
    from pyarrow import parquet

    newest = _newest(_keys_and_times(data, spec))
    done = 0
    with parquet.ParquetFile(data.features_path) as file:
        schema = file.schema_arrow.remove_metadata()
        with path.open("wb") as target, parquet.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches(_BATCH_ROWS):
                mask = pa.array(newest[done : done + batch.num_rows])
                writer.write_batch(batch.filter(mask).replace_schema_metadata())
                done += batch.num_rows
            writer.close()
            os.fsync(target.fileno())


def newest_times(data: FeatureData, spec: ModelSpec) -> dict[int | str, datetime]:
    """Return the newest event time (UTC) of every entity, in the order of the entities."""
    import pyarrow as pa

    table = _keys_and_times(data, spec)
    newest = table.filter(pa.array(_newest(table))).sort_by(spec.join_key.name)
    return dict(zip(*(column.to_pylist() for column in newest.columns), strict=True))


def time_span(data: FeatureData, spec: ModelSpec) -> tuple[datetime, datetime]:
    """Return the first and the last event time, in UTC."""
    from pyarrow import compute, parquet

    column = parquet.read_table(data.features_path, columns=[spec.event_timestamp])
    extremes = compute.min_max(column[spec.event_timestamp]).as_py()
    return extremes["min"], extremes["max"]


def _keys_and_times(data: FeatureData, spec: ModelSpec) -> pa.Table:
    from pyarrow import parquet

    columns = [spec.join_key.name, spec.event_timestamp]
    return parquet.read_table(data.features_path, columns=columns).select(columns)


def _newest(table: pa.Table) -> NDArray[np.bool_]:
    """For each row, whether no later one of its entity is there."""
    import numpy as np
    import pyarrow.compute as pc

    key, time = table.column_names
    order = pc.sort_indices(table, sort_keys=[(key, "ascending"), (time, "ascending")]).to_numpy()
    codes = table[key].combine_chunks().dictionary_encode().indices.to_numpy()
    ordered = codes[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    newest = np.zeros(len(codes), dtype=np.bool_)
    newest[order[last]] = True
    return newest
