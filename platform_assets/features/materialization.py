"""The newest row of every entity, found with Arrow and handed on in small batches.

Feast's own `materialize` makes all rows Python objects at once; at a million rows that is
many times the size of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

BATCH_ROWS: Final = 5_000


def newest_rows(data: FeatureData, spec: ModelSpec, progress: Progress) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `features.parquet` that are the newest of their entity.

    They come in the order of the file, `BATCH_ROWS` of it at a time.
    """
    import pyarrow as pa
    from pyarrow import parquet

    newest = _newest(data, spec)
    done = 0
    with parquet.ParquetFile(data.features_path) as file:
        for batch in file.iter_batches(BATCH_ROWS):
            mask = newest[done : done + batch.num_rows]
            done += batch.num_rows
            if mask.any():
                yield batch.filter(pa.array(mask))
            progress.at("writing to the online store", done, len(newest))


def time_span(data: FeatureData, spec: ModelSpec) -> tuple[datetime, datetime]:
    """Return the first and the last event time, in UTC."""
    from pyarrow import compute, parquet

    column = parquet.read_table(data.features_path, columns=[spec.event_timestamp])
    extremes = compute.min_max(column[spec.event_timestamp]).as_py()
    return extremes["min"], extremes["max"]


def _newest(data: FeatureData, spec: ModelSpec) -> NDArray[np.bool_]:
    """For each row of the file, whether no later one of its entity is there."""
    import numpy as np
    import pyarrow.compute as pc
    from pyarrow import parquet

    key, time = spec.join_key.name, spec.event_timestamp
    table = parquet.read_table(data.features_path, columns=[key, time])
    order = pc.sort_indices(table, sort_keys=[(key, "ascending"), (time, "ascending")])
    codes = table[key].combine_chunks().dictionary_encode().indices.to_numpy()
    ordered = codes[order.to_numpy()]
    last = np.append(ordered[1:] != ordered[:-1], True)
    newest = np.zeros(len(codes), dtype=np.bool_)
    newest[order.to_numpy()[last]] = True
    return newest
