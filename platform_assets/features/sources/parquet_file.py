"""One Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import (
    Progress,
    check_columns,
    conform_batch,
    ignored_columns,
)
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS: Final = 65_536


def parquet_header(path: Path) -> list[str]:
    """Return the names of the columns; no row is read.

    Raises:
        SourceError: the file is damaged.
        OSError: the file cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return list(parquet.read_schema(path).names)
    except pa.ArrowInvalid as exc:
        raise _damaged(path, exc) from exc


def read_parquet(
    path: Path, columns: Sequence[Column], progress: Progress
) -> tuple[pa.Table, tuple[str, ...]]:
    """Read `columns` of a Parquet file.

    Returns:
        They in their declared types, and the names of those that were ignored.

    Raises:
        SourceError: the file is damaged, lacks a column or has values of another type.
    """
    import pyarrow as pa
    from pyarrow import parquet

    name = f"the source file {path}"
    batches: list[pa.RecordBatch] = []
    rows = 0
    try:
        with parquet.ParquetFile(path) as file:
            found = list(file.schema_arrow.names)
            check_columns(name, found, columns)
            wanted = [column.name for column in columns]
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                batch.validate(full=True)  # or text that is no UTF-8 would go on
                batches.append(conform_batch(name, batch, columns, rows))
                rows += batch.num_rows
                progress.at(f"reading {path.name}", rows, file.metadata.num_rows)
    except (pa.ArrowException, OSError) as exc:
        raise _damaged(path, exc) from exc
    schema = pa.schema([(column.name, column.arrow) for column in columns])
    return pa.Table.from_batches(batches, schema=schema), ignored_columns(found, columns)


def _damaged(path: Path, exc: Exception) -> SourceError:
    return SourceError(
        f"the source file {path} cannot be read as Parquet: {exc}",
        "write the file again, and run again",
    )
