"""Open the source of a model, and identify it by its content.

Lightweight, because sensors import it: a reader loads DuckDB and pyarrow only when it reads.
"""

from __future__ import annotations

from typing import Final

from platform_assets.features.sources.columns import source_columns
from platform_assets.features.sources.datasets import DatasetReader
from platform_assets.features.sources.duckdb_query import DuckdbReader
from platform_assets.features.sources.files import FileReader
from platform_assets.features.sources.sql import SqlReader
from platform_assets.model_spec import SourceSpec
from platform_assets.resources.source import SourceError, SourceResource

__all__ = [
    "FINGERPRINT_METADATA",
    "SourceError",
    "current_fingerprint",
    "open_source",
    "source_fingerprint",
]

SourceReader = FileReader | SqlReader | DuckdbReader | DatasetReader
"""One source, opened for the columns that a model needs."""
FINGERPRINT_METADATA: Final = "data_fingerprint"
"""Metadata key under which materializations name the source's content."""


def open_source(spec: SourceSpec, source: SourceResource) -> SourceReader:
    """Return the reader of a source; SourceError for unset variables."""
    table = spec.own_table
    columns = source_columns(table)
    # The first key of labels: it is checked for ids that are written in two ways.
    key = None if table.join_key.from_row_number else table.join_key.name
    file, sql = table.source.file, table.source.sql
    if file is not None:
        return FileReader(file, source.expand(file), columns, key, table.source.separator)
    if sql is not None:
        time = () if table.event_time is None else (table.event_time.name,)
        # For equal keys and times the other columns decide, or the order would change the digest.
        rest = () if table.has_unique_rows else tuple(column.name for column in columns)
        order = () if key is None else (*table.join_key_names, *time, *rest)
        return SqlReader(sql, source.expand(sql.url), columns, key, order)
    if (duckdb := table.source.duckdb) is not None:
        files = {name: (path, source.expand(path)) for name, path in duckdb.files.items()}
        return DuckdbReader(duckdb.query, files, columns, key, duckdb.timeout)
    if table.source.feast_view is not None:
        raise SourceError(
            f"the rows of {table.name} are in Feast's view {table.source.feast_view}",
            "they are read by those who fill the view",
        )
    return DatasetReader(str(table.source.dataset), columns, key, table.source.scale)


def source_fingerprint(spec: SourceSpec, source: SourceResource) -> str:
    """Return the identity of the source's content: 64 lower-case hexadecimal digits.

    It equals the one of `read_source`. Unchanged files are not read again; a query is run, but
    its rows are not validated. SourceError when the source cannot be read.
    """
    return open_source(spec, source).fingerprint()


def current_fingerprint(
    spec: SourceSpec, source: SourceResource, cursor: str | None
) -> tuple[str, str]:
    """Return the fingerprint of the source, and the cursor for the next call.

    The rows are read only if the model, the files' metadata or the answer of `source.sql.changed`
    differs from the cursor, or if the source has neither.

    Raises:
        SourceError: the source cannot be read.
    """
    reader = open_source(spec, source)
    revision = reader.revision()  # before the rows: a change meanwhile is noticed the next time
    old_revision, _, known = (cursor or "").rpartition(" ")
    if revision is None:
        return (read := reader.fingerprint()), read
    asks = f"{spec.code_version} {revision}"
    fingerprint = known if old_revision == asks else reader.fingerprint()
    return fingerprint, f"{asks} {fingerprint}"
