"""The rows of a query, of any database that SQLAlchemy knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.content import table_fingerprint
from platform_assets.features.sources.reader import (
    Progress,
    Raw,
    check_columns,
    conform_batch,
    ignored_columns,
)
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import URL

_CHUNK_ROWS: Final = 20_000


class SqlReader:
    """A query, read in chunks from a cursor that the database keeps.

    A query without ORDER BY answers in any order, so rows are sorted by `order` before they
    are fingerprinted; () takes them as they come.
    """

    def __init__(
        self, url: str, query: str, columns: Sequence[Column], *, order: tuple[str, ...]
    ) -> None:
        self._url, self._query = url, query
        self._columns, self._order = columns, order

    @property
    def name(self) -> str:
        """What errors call it: the address without its password and its parameters."""
        return f"the query on {_shown(_parsed(self._url))}"

    @property
    def kinds(self) -> frozenset[str]:
        """Dagster's words for it."""
        return frozenset({"sql"})

    def fingerprint(self) -> str:
        """SHA-256 of the wanted columns of all rows, which have to be read for it."""
        return self.read(Progress()).fingerprint

    def read(self, progress: Progress) -> Raw:
        """Run the query and read all rows."""
        import pyarrow as pa

        batches: list[pa.RecordBatch] = []
        rows = 0
        with self._result() as result:
            found = list(result.keys())
            check_columns(self.name, found, self._columns)
            places = [found.index(column.name) for column in self._columns]
            for chunk in result.partitions(_CHUNK_ROWS):
                batch = _batch(chunk, places, self._columns)
                batches.append(conform_batch(self.name, batch, self._columns, rows))
                rows += len(chunk)
                progress.at("reading the query", rows)
        schema = pa.schema([(column.name, column.arrow) for column in self._columns])
        table = pa.Table.from_batches(batches, schema=schema)
        ignored = ignored_columns(found, self._columns)
        fingerprint = table_fingerprint(table, self._order)
        return Raw(self.name, table, ((self.name, rows),), ignored, fingerprint)

    @contextmanager
    def _result(self) -> Iterator[Any]:
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
        from sqlalchemy.pool import NullPool

        url = _parsed(self._url)
        try:
            engine = create_engine(url, poolclass=NullPool)
            with engine.connect() as connection:
                options = {"stream_results": True, "max_row_buffer": _CHUNK_ROWS}
                with connection.execution_options(**options).execute(text(self._query)) as result:
                    if not result.returns_rows:
                        raise SourceError(
                            f"{self.name} answers no rows", "write a SELECT, and run again"
                        )
                    yield result
        except (ImportError, NoSuchModuleError) as exc:
            raise SourceError(
                f"{self.name} needs a driver that is not installed ({exc})",
                "install the driver in the environment of the Dagster code location",
            ) from exc
        except SQLAlchemyError as exc:
            # Not the whole exception: it repeats the statement and, for some, the address.
            said = exc.orig if isinstance(exc, DBAPIError) else type(exc).__name__
            raise SourceError(
                f"{self.name} failed: {said}",
                "correct the URL or the query in the model file, or start the database, and "
                "run again",
            ) from exc


def _parsed(url: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Neither exception may go on: what they could not read may be a password.
        raise SourceError(
            "the source's query has a URL that is none that SQLAlchemy knows",
            "write dialect://user:${PASSWORD}@host:port/database in the model file, or look at "
            "the variables that it names, and run again",
        ) from None
    if "@" in (parsed.host or ""):
        raise SourceError(
            f"the URL of the source's query, {parsed.drivername}://..., has two @",
            "write the characters @ : / of a password as %40 %3A %2F in its variable, and run "
            "again",
        )
    return parsed


def _shown(url: URL) -> str:
    # Many drivers take passwords as parameters.
    return url.set(query={}).render_as_string(hide_password=True)


def _batch(
    chunk: Sequence[Sequence[Any]], places: Sequence[int], columns: Sequence[Column]
) -> pa.RecordBatch:
    import pyarrow as pa

    by_column = list(zip(*chunk, strict=True))
    arrays = [_array(by_column[place]) for place in places]
    return pa.record_batch(arrays, names=[column.name for column in columns])


def _array(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError):
        # Of several types, as SQLite allows, or of one that Arrow lacks: as text, which is
        # read like a cell of a file.
        return pa.array([None if value is None else str(value) for value in values], pa.string())
