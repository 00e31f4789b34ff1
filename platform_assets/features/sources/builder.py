"""The one way from rows of any source to a table of the declared types: the rules, by DuckDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.casting import Cast, cast, quoted
from platform_assets.features.sources.clock import local_to_utc
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.losses import Losses, merged_keys
from platform_assets.features.sources.reader import (
    SHOWN_PROBLEMS,
    Progress,
    SourceTable,
    check_columns,
    ignored_columns,
    wrong_values,
)
from platform_assets.resources.source import SourceError
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_BATCH_ROWS: Final = 65_536
_SHOWN: Final = 40
_ZERO_LED: Final = r"'^\s*[+-]?0[0-9]'"


def row_names(rows: Sequence[int]) -> list[str]:
    """Name rows that are counted from 1."""
    return [f"row {row}" for row in rows]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a source, as DuckDB reads them.

    `name` is for errors, `part` the shorter one within the source. `relation` stands behind
    FROM; `values` and `types` are SQL and DuckDB's type of each column of `headers`. `before`
    rows of the same part came earlier; `locate` names rows, counted from 1.
    """

    name: str
    part: str
    relation: str
    headers: Sequence[str]
    values: Sequence[str]
    types: Sequence[str]
    before: int = 0
    locate: Callable[[Sequence[int]], Sequence[str]] = row_names

    def with_constants(self, constants: Mapping[str, str | None]) -> Rows:
        """The same rows with columns of one text each, or of none."""
        literals = ["NULL::VARCHAR" if one is None else quoted(one) for one in constants.values()]
        return replace(
            self,
            headers=[*self.headers, *constants],
            values=[*self.values, *literals],
            types=[*self.types, *["VARCHAR"] * len(constants)],
        )


class TableBuilder:
    """Casts rows part by part, and puts the table together.

    `key` names the column of the entity; None: each row is one of its own.
    """

    def __init__(self, columns: Sequence[Column], key: str | None, progress: Progress) -> None:
        self._columns, self._key, self._progress = tuple(columns), key, progress
        self._losses = Losses()
        self._batches: list[pa.RecordBatch] = []
        self._parts: dict[str, int] = {}
        self._headers: Sequence[str] = ()
        self.database = _connect()

    def add(self, rows: Rows) -> None:
        """Read and cast these rows.

        Raises:
            ColumnsError: a wanted column is missing.
            SourceError: its columns are others than those before; or it names rows, columns and
                values that are of another type.
            duckdb.Error: DuckDB cannot read the relation; none of its rows is kept.
        """
        check_columns(rows.name, rows.headers, self._columns)
        if self._headers and set(self._headers) != set(rows.headers):
            raise _disagreement(self._headers, rows)
        query = _Query(rows, self._columns, self._key)
        batches: list[pa.RecordBatch] = []
        done = rows.before
        with self.database.sql(query.cells).to_arrow_reader(_BATCH_ROWS) as reader:
            for batch in reader:
                if batch.column("wrong").true_count:
                    break
                batches.append(self._declared(batch))
                done += batch.num_rows
                self._progress.at(f"reading {rows.part}", done)
            else:
                batch = None
        if batch is not None:
            raise self._refusal(rows, query)
        self._batches += batches
        self._parts[rows.part] = done
        self._headers = rows.headers

    def add_batch(self, name: str, headers: Sequence[str], batch: pa.RecordBatch) -> None:
        """Cast rows that stand in memory, behind those of the same name."""
        import pyarrow as pa

        places = [f"c{index}" for index in range(batch.num_columns)]
        table = pa.Table.from_batches([batch]).rename_columns(places)
        self.database.register("batch", table)
        types = [str(one) for one in self.database.table("batch").types]
        before = self._parts.get(name, 0)
        self.add(Rows(name, name, "batch", headers, places, types, before))

    def build(self, name: str, fingerprint: Callable[[pa.Table], str]) -> SourceTable:
        """Return what was added, with times in UTC.

        Raises:
            SourceError: a local time stands for two hours or for none.
        """
        import pyarrow as pa

        self.database.close()
        extra = [("local", pa.bool_()), ("written", pa.string())]
        schema = [(f"k{place}", _read_type(one)) for place, one in enumerate(self._columns)]
        table = pa.Table.from_batches(self._batches, schema=pa.schema([*schema, *extra]))
        local, written = table["local"], table["written"]
        table = table.select(range(len(self._columns)))
        table = table.rename_columns([column.name for column in self._columns])
        parts = tuple(self._parts.items()) or ((name, 0),)
        ignored = ignored_columns(self._headers, self._columns)
        source = SourceTable(name, table, parts, ignored, "")
        for column in self._columns:
            if column.timezone is not None:
                source = source.with_table(local_to_utc(source, column, local, self._key))
        keys = None if self._key is None else source.table[self._key]
        return SourceTable(
            name,
            source.table,
            parts,
            ignored,
            fingerprint(source.table),
            (*self._losses.warnings(), *merged_keys(self._key, keys, written)),
        )

    def _declared(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the declared types, without the mark of wrong rows."""
        import pyarrow as pa

        arrays = []
        for place, column in enumerate(self._columns):
            values = batch.column(place)
            narrow = values.cast(_read_type(column), safe=False)
            if column.dtype is DType.FP32:
                self._losses.note(column.name, values, narrow)
            arrays.append(narrow)
        names = [f"k{place}" for place in range(len(arrays))]
        arrays += [batch.column("local"), batch.column("written")]
        return pa.record_batch(arrays, names=[*names, "local", "written"])

    def _refusal(self, rows: Rows, query: _Query) -> SourceError:
        found = self.database.sql(query.wrong_rows).fetchall()
        [(count,)] = self.database.sql(query.wrong_count).fetchall()
        cells = [
            (number, column, _shown(value, one, type_))
            for number, values in found
            for value, column, one, type_ in zip(
                values, self._columns, query.casts, query.types, strict=True
            )
            if value is not None
        ][:SHOWN_PROBLEMS]
        names = rows.locate([rows.before + number for number, _, _ in cells])
        return wrong_values(
            rows.name,
            [(name, column, text) for name, (_, column, text) in zip(names, cells, strict=True)],
            count - len(cells),
        )


class _Query:
    """SQL that casts `rows`, and that looks at those that cannot be cast."""

    def __init__(self, rows: Rows, columns: Sequence[Column], key: str | None) -> None:
        places = [list(rows.headers).index(column.header) for column in columns]
        self.types = [rows.types[place] for place in places]
        self.casts: list[Cast] = [
            cast(column, f"v{index}", type_)
            for index, (column, type_) in enumerate(zip(columns, self.types, strict=True))
        ]
        values = ", ".join(f"{rows.values[place]} AS v{i}" for i, place in enumerate(places))
        casts = ", ".join(f"{one.value} AS k{i}" for i, one in enumerate(self.casts))
        marks = [
            f"(CASE WHEN k{i} IS NULL THEN {one.present} ELSE false END)"
            for i, one in enumerate(self.casts)
        ]
        times = [
            one.local for one, column in zip(self.casts, columns, strict=True) if column.timezone
        ]
        cells = f"(SELECT *, {casts} FROM (SELECT {values} FROM {rows.relation}))"
        wrong = f"({' OR '.join(marks)})"
        kept = ", ".join(f"k{i}" for i in range(len(columns)))
        self.cells = (
            f"SELECT {kept}, {times[0] if times else 'false'} AS local, "
            f"{self._written(columns, key)} AS written, {wrong} AS wrong FROM {cells}"
        )
        shown = ", ".join(
            f"CASE WHEN {mark} THEN CAST(v{i} AS VARCHAR) END" for i, mark in enumerate(marks)
        )
        self.wrong_rows = (
            f"SELECT row, shown FROM (SELECT row_number() OVER () AS row, [{shown}] AS shown, "
            f"{wrong} AS wrong FROM {cells}) WHERE wrong ORDER BY row LIMIT {SHOWN_PROBLEMS}"
        )
        self.wrong_count = f"SELECT sum({' + '.join(f'{m}::INT' for m in marks)}) FROM {cells}"

    def _written(self, columns: Sequence[Column], key: str | None) -> str:
        """A key with leading zeros as it is written, null for any other."""
        for place, column in enumerate(columns):
            if (
                column.name == key
                and column.dtype is DType.INT64
                and self.types[place] == "VARCHAR"
            ):
                return (
                    f"CASE WHEN CAST(k{place} AS VARCHAR) <> v{place} AND "
                    f"regexp_matches(v{place}, {_ZERO_LED}) THEN v{place} END"
                )
        return "CAST(NULL AS VARCHAR)"


def _disagreement(before: Sequence[str], rows: Rows) -> SourceError:
    lacking = sorted(set(before) - set(rows.headers))
    more = sorted(set(rows.headers) - set(before))
    said = [
        f"{word} {', '.join(names)}"
        for word, names in (("lacks", lacking), ("also has", more))
        if names
    ]
    return SourceError(
        f"{rows.name} {' and '.join(said)}: it does not have the columns of those before",
        "give all files the same columns, and run again",
    )


def _connect() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",  # nothing is fetched
            "disabled_optimizers": "statistics_propagation",  # those of Parquet know no NaN
            "temp_directory": "",
            "TimeZone": "UTC",
        }
    )


def _read_type(column: Column) -> pa.DataType:
    import pyarrow as pa

    return column.arrow if column.timezone is None else pa.timestamp("us")


def _shown(value: str, one: Cast, source_type: str) -> str:
    short = value[:_SHOWN]
    if one.foreign:
        return f"{short} (type {source_type})"
    return repr(short) if source_type == "VARCHAR" else short
