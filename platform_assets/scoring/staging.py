"""The rows of a file in their declared types, staged as Parquet to read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from platform_assets.features.sources.builder import TableBuilder
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.files import FileReader
from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import FeatureSpec, JoinKey, ModelSpec
from platform_assets.model_spec.source import check_path
from platform_assets.resources.source import ColumnsError, SourceError
from platform_assets.scoring.records import ROW


class ParquetStage(TableBuilder):
    """Casts rows as for any source, but keeps them in files of a folder instead of in memory."""

    def __init__(self, columns: Sequence[Column], folder: Path, progress: Progress) -> None:
        super().__init__(columns, None, progress)
        self._folder = folder
        self.names = tuple(column.name for column in columns)
        self.files: list[str] = []
        self.rows = 0

    def _keep(self, part: str, batches: Iterator[pa.RecordBatch]) -> None:
        fields = [(column.name, column.arrow) for column in self._columns]
        # If a reader fails halfway and reads again, the new file replaces the first one.
        path = self._folder / f"rows-{len(self.files)}.parquet"
        row_count = self.rows
        with parquet.ParquetWriter(path, pa.schema([(ROW, pa.int64()), *fields])) as writer:
            for batch in batches:
                numbers = np.arange(row_count + 1, row_count + 1 + batch.num_rows, dtype=np.int64)
                writer.write_batch(
                    pa.record_batch({ROW: numbers, **{n: batch[n] for n in self.names}})
                )
                row_count += batch.num_rows
        self.files.append(str(path))
        self._parts[part] = self._parts.get(part, 0) + row_count - self.rows
        self.rows = row_count


def stage_file(path: str, spec: ModelSpec, folder: Path, progress: Progress) -> ParquetStage:
    """Read the rows to score from a CSV or Parquet file, a folder of them or a glob pattern.

    For a model of one table they have its features, and may have its key; for a model of several
    tables, the keys and the request features. Column names are those of requests, or all those of
    the model's own source (`from`).

    Raises:
        SourceError: the file cannot be read, lacks a column, has no rows, or holds a value of
            another type; names the rows.
    """
    reader, columns = _reader(path, spec)
    stage = ParquetStage(columns, folder, progress)
    with stage.database:
        reader.read_into(stage)
    if not stage.rows:
        raise SourceError(f"{reader.name} has columns and no rows", "add rows to it and run again")
    return stage


def _reader(path: str, spec: ModelSpec) -> tuple[FileReader, Sequence[Column]]:
    """Open the file for the first set of columns that it has."""
    try:
        check_path(path)
    except ValueError as error:
        todo = "give `entities`, or the path of a file, in the configuration of the run"
        raise SourceError(f"the source to score: {error}", todo) from None
    refusals: list[tuple[int, ColumnsError]] = []
    for columns in _column_sets(spec):
        reader = FileReader(path, path, columns, None, None)
        try:
            reader.check_header()
        except ColumnsError as error:
            refusals.append((len(columns), error))
        else:
            return reader, columns
    # The refusal for the smallest set of columns.
    raise min(refusals, key=lambda refusal: refusal[0])[1]


def _column_sets(spec: ModelSpec) -> list[list[Column]]:
    """Return the sets of columns that a file may have, larger ones first."""
    keys: Sequence[JoinKey] = spec.join_keys
    features: Sequence[FeatureSpec] = spec.features
    sets: list[list[JoinKey | FeatureSpec]] = [[*keys, *features], [*features]]
    if spec.tables:
        sets = [[*keys, *spec.request]]
    elif spec.join_key.from_row_number:
        sets = [[*features]]
    return [
        [
            Column(column.name, column.dtype, source_column=own and column.source_column)
            for column in columns
        ]
        for own in ("", "own")
        for columns in sets
    ]
