"""The rows of a DuckDB query over files: aggregates and windows in SQL."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.sources.casting import file_in_sql, quoted
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.files import FileReader
from platform_assets.features.sources.reader import Progress, SourceTable, check_columns, time_limit
from platform_assets.resources.source import QueryError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCH_ROWS: Final = 65_536
_SHOWN: Final = 1_000
"""Characters kept of DuckDB's message, which may repeat a line of a file."""
_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": "false",  # nothing is downloaded
    "disabled_optimizers": "statistics_propagation",  # Parquet's statistics ignore NaN
    "enable_external_file_cache": False,
    "TimeZone": "UTC",
}


class DuckdbReader:
    """A query over files that it refers to by name.

    `files` has each path by name, as the model file writes it and expanded; `key` is that of
    `TableBuilder`. The query reads nothing but these files, and changes none.
    """

    def __init__(
        self,
        query: str,
        files: Mapping[str, tuple[str, str]],
        columns: Sequence[Column],
        key: str | None,
        timeout: timedelta,
    ) -> None:
        self._query, self._columns, self._key, self._timeout = query, columns, key, timeout
        self._hidden = {path: shown for shown, path in files.values() if shown != path}
        self._files = {
            name: FileReader(shown, path, (), None, None) for name, (shown, path) in files.items()
        }

    @property
    def name(self) -> str:
        """The name of the source in errors."""
        return f"the DuckDB query over {', '.join(self._files)}"

    def fingerprint(self) -> str:
        """SHA-256 of the query and of the content of the files."""
        return self._digest({name: file.fingerprint() for name, file in self._files.items()})

    def revision(self) -> str | None:
        """SHA-256 of the query and of names, sizes and times; None while a file is too recent."""
        revisions = {name: file.revision() for name, file in self._files.items()}
        known = {name: revision for name, revision in revisions.items() if revision is not None}
        return self._digest(known) if len(known) == len(revisions) else None

    def check_header(self) -> None:
        """Raise SourceError unless the query runs and has the wanted columns."""
        with self._relation() as relation:
            names = relation.columns
        check_columns(self.name, names, self._columns)

    def read(self, progress: Progress) -> SourceTable:
        """Run the query exactly as it is written, and read all rows."""
        from platform_assets.features.sources.builder import TableBuilder

        before = self.fingerprint()
        builder = TableBuilder(self._columns, self._key, progress)
        with self._relation() as relation, relation.to_arrow_reader(_BATCH_ROWS) as reader:
            headers = reader.schema.names
            builder.add_batch(self.name, headers, _empty_batch(reader.schema))
            for batch in reader:
                builder.add_batch(self.name, headers, batch)
        if self.fingerprint() != before:
            raise SourceError(
                f"a file of {self.name} changed while it was read",
                "run again; writers of a file should write a new one next to it and rename it",
            )
        return builder.build(self.name, lambda _: before)

    def _digest(self, files: Mapping[str, str]) -> str:
        parts = [self._query, *(f"{name} {content}" for name, content in sorted(files.items()))]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @contextmanager
    def _relation(self) -> Iterator[Any]:
        import duckdb
        import pyarrow as pa

        late = threading.Event()
        try:
            with (
                TemporaryDirectory(prefix="query-") as folder,
                duckdb.connect(config=_CONFIG | {"temp_directory": folder}) as database,
            ):
                self._require_select(duckdb.extract_statements(self._query))
                for name, file in self._files.items():
                    database.execute(f'CREATE VIEW "{name}" AS SELECT * FROM {_scan(file)}')
                paths = [path for file in self._files.values() for path in file.files()]
                # Both as the pattern, which DuckDB checks first, and as the files it matches.
                allowed = [*map(file_in_sql, paths), *(quoted(str(path)) for path in paths)]
                database.execute(f"SET allowed_paths = [{', '.join(allowed)}]")
                database.execute("SET enable_external_access = false")
                database.execute("SET lock_configuration = true")
                with time_limit(database.interrupt, self._timeout, late):
                    yield database.sql(self._query)
        # A failure after the first rows comes through Arrow, as an OSError.
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            if late.is_set():
                raise SourceError(
                    f"{self.name} took longer than {self._timeout} and was canceled",
                    "make the query faster, or raise source.duckdb.timeout, and run again",
                ) from None
            raise QueryError(
                f"{self.name} failed: {self._describe(exc)}",
                "correct the query or the files, and run again",
            ) from None

    def _require_select(self, statements: Sequence[Any]) -> None:
        """Refuse anything but a SELECT: a COPY could even write to the readable files."""
        if [statement.type.name for statement in statements] != ["SELECT"]:
            raise QueryError(
                f"{self.name} is not a single SELECT",
                "write one SELECT (a PIVOT with its values, IN (...)), and run again",
            )

    def _describe(self, error: Exception) -> str:
        """Return DuckDB's message without the values of path variables."""
        text = str(error)
        for path, shown in self._hidden.items():
            text = text.replace(str(Path(path).expanduser().absolute()), shown)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _scan(file: FileReader) -> str:
    """Return the table function that reads a file, or all files of a folder or a pattern."""
    paths = file.files()
    listed = f"[{', '.join(map(file_in_sql, paths))}]"
    if paths[0].suffix.lower() == ".parquet":
        return f"read_parquet({listed}, hive_partitioning = true)"
    # Types are inferred from all rows, not from the first ones.
    return f"read_csv({listed}, header = true, sample_size = -1)"


def _empty_batch(schema: Any) -> Any:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
