"""Synchronize the online store with the features by writing only the difference.

Feast's own `materialize` writes all rows, turning all of them into Python objects at once. The
rows written last stay as a Parquet file, whose name the online store keeps beside them: a store
that was emptied or restored names no file or another one, and is rewritten completely.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
from pyarrow import parquet

from platform_assets.features.newest import time_span, write_newest
from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import SourceSpec
from platform_assets.resources.atomic_files import lock_file
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.feast_online import OnlineView

_BATCH_ROWS: Final = 5_000


@dataclass(frozen=True, slots=True)
class OnlineChanges:
    """How many rows were written to the online store, and deleted from it."""

    written: int = 0
    deleted: int = 0


def update_online(
    feast: FeastResource, data: FeatureData, spec: SourceSpec, progress: Progress
) -> OnlineChanges:
    """Make the online store hold the newest row of every entity, and no other entity.

    Views of other contracts keep the values that earlier versions read, except for entities that
    are no longer in the source. After a FeatureStoreError the next call writes all rows.
    """
    folder = Path(data.features_path).parent / "online"
    folder.mkdir(exist_ok=True)
    view = feast.online(spec.feature_view)
    current = folder / f"{view.name}.{uuid.uuid4().hex}.parquet"
    with lock_file(folder / ".lock"):
        try:
            write_newest(data, spec, current)
            changes = _apply(view, folder, current, progress)
            deleted = _delete_from_older_views(feast, view, current, spec, folder)
            if changes != OnlineChanges():
                view.record_span(*time_span(data, spec))
                view.mark(current.name)
        except BaseException:
            current.unlink(missing_ok=True)
            raise
        _keep_one_record(folder, view)
    return OnlineChanges(changes.written, changes.deleted + deleted)


def _apply(view: OnlineView, folder: Path, current: Path, progress: Progress) -> OnlineChanges:
    last = folder / view.content
    with parquet.ParquetFile(current) as file:
        if not last.is_file() or _layout(parquet.read_schema(last)) != _layout(file.schema_arrow):
            view.mark("")
            deleted = view.delete_others(_column(current, view.key))
            batches = file.iter_batches(_BATCH_ROWS)
            return OnlineChanges(
                view.write(_with_progress(batches, file.metadata.num_rows, progress)), deleted
            )
    changed = _difference("*", current, last)
    removed = _difference(f'"{view.key}"', last, current)
    if changed.num_rows or removed.num_rows:
        view.mark("")
        batches = changed.to_batches(_BATCH_ROWS)
        view.write(_with_progress(batches, changed.num_rows, progress))
        view.delete(removed[view.key].to_pylist())
    return OnlineChanges(changed.num_rows, removed.num_rows)


def _layout(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [*zip(schema.names, schema.types, strict=True)]


def _difference(columns: str, left: Path, right: Path) -> pa.Table:
    """Return the rows of `left` that are not in `right`."""
    query = f"SELECT {columns} FROM read_parquet(?)"  # noqa: S608 -- a column's name
    with duckdb.connect(config={"enable_external_file_cache": False}) as database:
        database.execute("SET TimeZone = 'UTC'")
        relation = database.sql(f"{query} EXCEPT {query}", params=[str(left), str(right)])
        return relation.to_arrow_table()


def _delete_from_older_views(
    feast: FeastResource, view: OnlineView, current: Path, spec: SourceSpec, folder: Path
) -> int:
    others = [feast.online(older) for older in feast.views(spec.name) if older != view.name]
    same = [older for older in others if (older.key, older.key_type) == (view.key, view.key_type)]
    ids = _column(current, view.key) if same else []
    deleted = 0
    for older in same:
        if older.content:  # if its contract returns, entities may have returned, too: write all
            older.mark("")
            _keep_one_record(folder, older)
        deleted += older.delete_others(ids)
    return deleted


def _column(path: Path, name: str) -> list[int | str]:
    values: list[int | str] = parquet.read_table(path, columns=[name])[name].to_pylist()
    return values


def _with_progress(
    batches: Iterable[pa.RecordBatch], total: int, progress: Progress
) -> Iterator[pa.RecordBatch]:
    row_count = 0
    for batch in batches:
        yield batch
        row_count += batch.num_rows
        progress.report("writing to the online store", row_count, total)


def _keep_one_record(folder: Path, view: OnlineView) -> None:
    """Delete records that the store does not name: they may hold entities gone from the source."""
    content = view.content
    for record in folder.glob(f"{view.name}.*"):
        if record.name != content:
            record.unlink()
