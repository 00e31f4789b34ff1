"""The rows of a query, of any database that SQLAlchemy knows."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import (
    Progress,
    SourceTable,
    table_fingerprint,
    time_limit,
)
from platform_assets.model_spec import SqlQuery
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import URL, Connection

_CHUNK_ROWS: Final = 20_000
_CONNECT_S: Final = 10
_CONNECT_OPTION: Final = {
    **dict.fromkeys(("pysqlite", "pg8000", "pyodbc"), "timeout"),
    **dict.fromkeys(("psycopg2", "psycopg", "pymysql", "mysqldb"), "connect_timeout"),
}
"""The drivers' names for the connection timeout in seconds."""


class SqlReader:
    """A query, read in chunks from a server-side cursor.

    A query without ORDER BY returns rows in any order, so they are sorted by `order` before they
    are fingerprinted; () takes them as they come. `url` is that of `source` with its variables
    expanded, `key` that of `TableBuilder`.
    """

    def __init__(
        self,
        source: SqlQuery,
        url: str,
        columns: Sequence[Column],
        key: str | None,
        order: tuple[str, ...],
    ) -> None:
        self._source, self._url = source, url
        self._columns, self._key, self._order = columns, key, order

    @property
    def name(self) -> str:
        """The name of the source in errors: the address without password and parameters."""
        shown = re.sub(r"(://[^/@:]*:).*@", r"\1***@", self._source.url.partition("?")[0])
        return f"the query on {shown}"

    def fingerprint(self) -> str:
        """SHA-256 of the wanted columns of all rows; reads them."""
        return self.read(Progress()).fingerprint

    def revision(self) -> str | None:
        """SHA-256 of the database's name and the answer of `changed`; None without that query."""
        if self._source.changed is None:
            return None
        url = _parse_url(self._url)
        with self._result(self._source.changed) as result:
            rows = [tuple(row) for row in result]
        return hashlib.sha256(repr((url.host, url.port, url.database, rows)).encode()).hexdigest()

    def read(self, progress: Progress) -> SourceTable:
        """Run the query exactly as it is written, and read all rows."""
        from platform_assets.features.sources.builder import TableBuilder

        builder = TableBuilder(self._columns, self._key, progress)
        with self._result(self._source.query) as result:
            headers = list(result.keys())
            for chunk in itertools.chain([()], result.partitions(_CHUNK_ROWS)):
                builder.add_batch(self.name, headers, _batch(chunk, len(headers)))
        return builder.build(self.name, lambda table: table_fingerprint(table, self._order))

    @contextmanager
    def _result(self, query: str) -> Iterator[Any]:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
        from sqlalchemy.pool import NullPool

        url = _parse_url(self._url)
        late = threading.Event()
        try:
            engine = create_engine(url, poolclass=NullPool, connect_args=_connect_arguments(url))
            with (
                engine.connect() as connection,
                time_limit(_cancel_method(connection), self._source.timeout, late),
            ):
                # Without parameters, drivers leave colons and percent signs alone.
                options = {"no_parameters": True, "stream_results": True}
                with connection.exec_driver_sql(
                    query, execution_options=options | {"max_row_buffer": _CHUNK_ROWS}
                ) as result:
                    if not result.returns_rows:
                        raise SourceError(f"{self.name} returns no rows", "write a SELECT")
                    yield result
        except (ImportError, NoSuchModuleError) as exc:
            raise SourceError(
                f"{self.name} needs a driver that is not installed ({exc})",
                "install the driver in the environment of the Dagster code location",
            ) from exc
        except SQLAlchemyError as exc:
            if late.is_set():
                raise SourceError(
                    f"{self.name} took longer than {self._source.timeout} and was canceled",
                    "make the query faster, or raise source.sql.timeout, and run again",
                ) from None
            # Not the whole exception: it repeats the statement and, in some drivers, the address.
            reason = exc.orig if isinstance(exc, DBAPIError) and exc.orig else exc
            raise SourceError(
                f"{self.name} failed: {_without_secrets(str(reason), url)}",
                "correct URL or query in the model file, or start the database, and run again",
            ) from None


def _cancel_method(connection: Connection) -> Callable[[], object] | None:
    """Return the driver's own way to cancel a statement, if it has one."""
    driver: Any = connection.connection.driver_connection
    return getattr(driver, "cancel", None) or getattr(driver, "interrupt", None)


def _connect_arguments(url: URL) -> dict[str, Any]:
    option = _CONNECT_OPTION.get(url.get_dialect().driver)
    return {} if option is None or option in url.query else {option: _CONNECT_S}


def _parse_url(url: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Neither exception may propagate: the part that could not be parsed may be a password.
        raise SourceError(
            "the source's query has a URL that SQLAlchemy does not know",
            "write dialect://user:${SOURCE_PASSWORD}@host:port/database in the model file, or "
            "look at the variables that it names, and run again",
        ) from None
    if "@" in (parsed.host or ""):
        raise SourceError(
            f"the URL of the source's query, {parsed.drivername}://..., has two @",
            "write @ : / of a password as %40 %3A %2F in its variable, and run again",
        )
    # SQLAlchemy's own choice would be psycopg 3; the image has psycopg2.
    postgres = parsed.drivername in {"postgres", "postgresql"}
    return parsed.set(drivername="postgresql+psycopg2") if postgres else parsed


def _without_secrets(text: str, url: URL) -> str:
    parameters = itertools.chain.from_iterable(url.normalized_query.values())
    for secret in filter(None, map(str, [url.password or "", *parameters])):
        text = text.replace(secret, "***")
    return " ".join(text.split())


def _batch(rows: Sequence[Sequence[Any]], columns: int) -> pa.RecordBatch:
    import pyarrow as pa

    by_column = zip(*rows, strict=True) if rows else [()] * columns
    return pa.record_batch(
        [_array(values) for values in by_column], names=[str(n) for n in range(columns)]
    )


def _array(values: Sequence[Any]) -> pa.Array:
    import pyarrow as pa

    zones = {value.tzinfo is None for value in values if isinstance(value, datetime)}
    with suppress(pa.ArrowException, OverflowError, TypeError):
        array = pa.array(values)
        if len(zones) < 2 and not pa.types.is_decimal256(array.type):
            return array
    # Mixed types, as SQLite allows, or a type that DuckDB lacks: as text, which is read like a
    # cell of a file.
    return pa.array([None if value is None else str(value) for value in values], pa.string())
