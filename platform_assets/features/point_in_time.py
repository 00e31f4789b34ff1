"""Join labels with what the feature tables knew at their time, and nothing later.

Feast's own join pairs each label with every earlier row of its entity before it takes the newest:
a million labels of a thousand busy merchants make billions of pairs. DuckDB's ASOF join is linear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import duckdb

from platform_assets.features.records import FeatureData
from platform_assets.model_spec import FeatureSpec, FeatureTableSpec, ModelSpec
from platform_assets.resources.feast_errors import translate_feast_errors

if TYPE_CHECKING:
    import pyarrow as pa

_LEAST_MEMORY_MB: Final = 400
_TIMES_SIZE: Final = 3
_ROW: Final = '"\trow"'
_FOUND: Final = "\tfound"
"""Names with a tab, which the model file does not allow in column names."""


class RepeatedRowsError(Exception):
    """A table without times has several rows of one entity."""


class UnknownEntityError(Exception):
    """Labels whose entity has no row in a table at their time, though its columns require one."""


def join_tables(
    data: FeatureData, spec: ModelSpec, final_until: datetime | None = None
) -> pa.Table:
    """Return the labels with the columns of the model's feature tables.

    A label gets its entity's newest row that is not later than the label, nor older than the
    table's `ttl`; a table without times has one row for all times. Where a table has no such row,
    its columns are null. Labels after `final_until` are left out. In the order of the labels.

    Raises:
        UnknownEntityError: a column would be null that may not be.
        RepeatedRowsError: a table without times has several rows of one entity.
        FeatureStoreError: the files cannot be joined.
    """
    paths = {table.name: table.features_path for table in data.tables}
    stored = spec.stored_features
    parts = [
        _Part(
            table,
            paths[table.name],
            [feature for feature in stored if feature.table == table.name],
            number,
        )
        for number, table in enumerate(spec.tables)
    ]
    time = _quote(spec.event_timestamp)
    columns = [
        f"l.* EXCLUDE ({_ROW})",
        *(column for part in parts for column in part.columns(time)),
    ]
    conditions = [part.is_found(time) for part in parts]
    joins = " ".join(part.join(time) for part in parts)
    final = f"WHERE {time} <= getvariable('final_until')" if final_until else ""
    # The row number preserves the order, which parallel joins do not.
    numbered = f"SELECT *, row_number() OVER () AS {_ROW}"
    labels = f"{numbered} FROM read_parquet(getvariable('labels'))"
    query = (
        f"WITH l AS (SELECT * FROM ({labels}) {final}) "  # noqa: S608 -- columns of the spec
        f"SELECT {', '.join([*columns, *conditions])} FROM l {joins} ORDER BY l.{_ROW}"
    )
    files = [data.labels_path, *paths.values()]
    with (
        translate_feast_errors("join the feature tables to the labels"),
        _database(files) as database,
    ):
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET VARIABLE labels = ?", [data.labels_path])
        if final_until:
            database.execute("SET VARIABLE final_until = ?", [final_until])
        for part in parts:
            database.execute(f"SET VARIABLE {part.alias} = ?", [part.path])
        joined = database.sql(query).to_arrow_table()
        counted = f"SELECT count(*) FROM read_parquet(getvariable('labels')) {final}"  # noqa: S608 -- as above
        [(count,)] = database.sql(counted).fetchall()
    if joined.num_rows != count:
        timeless = " or ".join(table.name for table in spec.tables if table.event_time is None)
        raise RepeatedRowsError(
            f"{count:,} labels became {joined.num_rows:,} rows: {timeless} has several rows of one "
            "entity, and no event_timestamp that says which of them a label may know"
        )
    for part in parts:
        part.check(joined, spec)
    return joined.drop_columns([part.mark for part in parts])


@contextmanager
def _database(files: Iterable[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database that spills to disk beyond a few times the size of the files."""
    size = sum(Path(file).stat().st_size for file in files)
    with TemporaryDirectory(prefix="join-") as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "enable_external_file_cache": False,
            "memory_limit": f"{max(_LEAST_MEMORY_MB, _TIMES_SIZE * size // 2**20)}MB",
            "temp_directory": folder,
        }
        with duckdb.connect(config=config) as database:
            yield database


class _Part:
    """One table's part of the query."""

    def __init__(
        self, table: FeatureTableSpec, path: str, features: list[FeatureSpec], number: int
    ) -> None:
        self._table, self.path, self._features = table, path, features
        self.alias, self.mark = f"t{number}", f"{_FOUND} {number}"

    def join(self, time: str) -> str:
        """Return the clause that joins the newest row."""
        key = _quote(self._table.join_key.name)
        rows = f"read_parquet(getvariable('{self.alias}')) {self.alias}"
        if self._table.event_time is None:
            return f"LEFT JOIN {rows} ON l.{key} = {self.alias}.{key}"
        newest = f"l.{time} >= {self._time}"
        return f"ASOF LEFT JOIN {rows} ON l.{key} = {self.alias}.{key} AND {newest}"

    def columns(self, time: str) -> list[str]:
        """Return the columns of the table, null where expired."""
        names = [_quote(feature.name) for feature in self._features]
        return [f"CASE WHEN {self._fresh(time)} THEN {self.alias}.{n} END AS {n}" for n in names]

    def is_found(self, time: str) -> str:
        """Return the condition that there is a row that has not expired."""
        key = f"{self.alias}.{_quote(self._table.join_key.name)}"
        return f"{key} IS NOT NULL AND {self._fresh(time)} AS {_quote(self.mark)}"

    def check(self, joined: pa.Table, spec: ModelSpec) -> None:
        """Raise UnknownEntityError where a label has no row that it needs."""
        import pyarrow.compute as pc

        needed = [feature.name for feature in self._features if not feature.nullable]
        without = pc.invert(pc.fill_null(joined[self.mark], False))
        count = pc.sum(without).as_py() or 0
        if not needed or not count:
            return
        key, first = self._table.join_key.name, pc.index(without, True).as_py()
        entity = joined[key][first].as_py()
        at = joined[spec.event_timestamp][first].as_py().isoformat()
        raise UnknownEntityError(
            f"{count:,} of {joined.num_rows:,} labels have no row of {self._table.name} at their "
            f"time or within its ttl, first {key} {entity} at {at}: add those rows, leave the "
            f"labels out, or say `nullable: true` of {', '.join(needed)} in {self._table.name}"
        )

    @property
    def _time(self) -> str:
        # An external table may have times without a zone, in UTC.
        return f"{self.alias}.{_quote(self._table.event_timestamp)}::TIMESTAMPTZ"

    def _fresh(self, time: str) -> str:
        ttl: timedelta = self._table.expires_after
        if not ttl:
            return "true"
        seconds = int(ttl.total_seconds())
        return f"l.{time} <= {self._time} + INTERVAL {seconds} SECOND"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
