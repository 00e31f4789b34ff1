"""Cast the rows of any source to the declared types with DuckDB, and build one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import pyarrow as pa

from platform_assets.features.sources.casting import cast, quoted
from platform_assets.features.sources.clock import local_to_utc
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.losses import describe_lost_digits, describe_merged_keys
from platform_assets.features.sources.reader import (
    SHOWN_PROBLEMS,
    Progress,
    SourceTable,
    check_columns,
    ignored_columns,
    wrong_values,
)
from platform_assets.features.sources.sink import ZERO_LED, SourceRows, connect
from platform_assets.resources.source import SourceError
from serving_gateway.contract import DType

_BATCH_ROWS: Final = 65_536
_SHOWN: Final = 40
_LOCAL: Final = " local"
_WRITTEN: Final = " written"
"""Columns beside the wanted ones, with names that none of these has."""


class TableBuilder:
    """Casts rows part by part, and assembles the table.

    `key` names the column of the entity; None if each row is an entity of its own.
    """

    def __init__(self, columns: Sequence[Column], key: str | None, progress: Progress) -> None:
        self._columns, self._key, self._progress = tuple(columns), key, progress
        self._lost: dict[str, str] = {}
        self._batches: list[pa.RecordBatch] = []
        self._parts: dict[str, int] = {}
        self._headers: Sequence[str] = ()
        self.database = connect()

    def add(self, rows: SourceRows) -> None:
        """Read and cast these rows.

        Raises:
            ColumnsError: a wanted column is missing.
            SourceError: the columns differ from those before; or values have another type,
                named with rows and columns.
            duckdb.Error: DuckDB cannot read the relation; none of its rows is kept.
        """
        headers = [*rows.headers, *rows.constants]
        check_columns(rows.name, headers, self._columns)
        if self._headers and set(self._headers) != set(headers):
            others = ", ".join(sorted(set(self._headers) ^ set(headers)))
            raise SourceError(
                f"{rows.name} has other columns than those before: they differ by {others}",
                "give all files the same columns, and run again",
            )
        self._keep(rows.part, self._cast(rows))
        self._headers = headers

    def _keep(self, part: str, batches: Iterator[pa.RecordBatch]) -> None:
        """Keep all of the batches, or none if one of them raises."""
        kept = list(batches)
        self._batches += kept
        self._parts[part] = self._parts.get(part, 0) + sum(batch.num_rows for batch in kept)

    def _cast(self, rows: SourceRows) -> Iterator[pa.RecordBatch]:
        query, row_count = _Query(rows, self._columns, self._key), rows.before
        with self.database.sql(query.cells).to_arrow_reader(_BATCH_ROWS) as reader:
            for batch in reader:
                if batch.column("wrong").true_count > 0:
                    break
                yield self._to_declared_types(batch)
                row_count += batch.num_rows
                self._progress.report(f"reading {rows.part}", row_count)
            else:
                return
        # Close the reader first: the database answers one query at a time.
        raise self._error_of(rows, query)

    def add_batch(self, name: str, headers: Sequence[str], batch: pa.RecordBatch) -> None:
        """Cast rows that are in memory, after those of the same name."""
        table = pa.Table.from_batches([batch])
        self.database.register(
            "batch", table.rename_columns([f"c{n}" for n in range(len(headers))])
        )
        types = [str(type_) for type_ in self.database.table("batch").types]
        self.add(SourceRows(name, name, "batch", headers, types, before=self._parts.get(name, 0)))

    def build(self, name: str, fingerprint: Callable[[pa.Table], str]) -> SourceTable:
        """Return the rows added, with times in UTC; SourceError for an ambiguous local time."""
        self.database.close()
        types = [(column.name, _read_type(column)) for column in self._columns]
        schema = pa.schema([*types, (_LOCAL, pa.bool_()), (_WRITTEN, pa.string())])
        table = pa.Table.from_batches(self._batches, schema=schema)
        local, written = table[_LOCAL], table[_WRITTEN]
        source = SourceTable(
            name,
            table.drop_columns([_LOCAL, _WRITTEN]),
            tuple(self._parts.items()) or ((name, 0),),
            ignored_columns(self._headers, self._columns),
        )
        for column in self._columns:
            if column.timezone is not None:
                table = local_to_utc(source, column, local, self._key)
                source = replace(source, table=table)
        warnings = list(self._lost.values())
        if self._key is not None and (
            merged := describe_merged_keys(self._key, source.table, written)
        ):
            warnings.append(merged)
        return replace(
            source,
            fingerprint=fingerprint(source.table),
            warnings=tuple(warnings),
        )

    def _to_declared_types(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch in the declared types, without the flag of wrong rows."""
        arrays = {}
        for values, column in zip(batch.columns, self._columns, strict=False):
            narrow = arrays[column.name] = values.cast(_read_type(column), safe=False)
            if column.dtype is DType.FP32 and column.name not in self._lost:
                warning = describe_lost_digits(column.name, values, narrow)
                self._lost |= {column.name: warning} if warning else {}
        return pa.record_batch(arrays | {one: batch.column(one) for one in (_LOCAL, _WRITTEN)})

    def _error_of(self, rows: SourceRows, query: _Query) -> SourceError:
        cells = self.database.sql(query.wrong_cells).limit(SHOWN_PROBLEMS).fetchall()
        [(count,)] = self.database.sql(f"SELECT count(*) FROM ({query.wrong_cells})").fetchall()
        names = rows.locate([rows.before + row for row, _, _ in cells])
        wrong = [
            (name, self._columns[place], query.format_value(place, value))
            for name, (_, place, value) in zip(names, cells, strict=True)
        ]
        return wrong_values(rows.name, wrong, count - len(cells))


class _Query:
    """SQL that casts `rows`, and that finds the cells that cannot be cast."""

    def __init__(self, rows: SourceRows, columns: Sequence[Column], key: str | None) -> None:
        headers = [*rows.headers, *rows.constants]
        literals = [
            "NULL::VARCHAR" if text is None else quoted(text) for text in rows.constants.values()
        ]
        values = [*(f"c{place}" for place in range(len(rows.headers))), *literals]
        types = [*rows.types, *["VARCHAR"] * len(literals)]
        places = [headers.index(column.header) for column in columns]
        self._types = [types[place] for place in places]
        self._casts = [
            cast(column, f"v{i}", type_)
            for i, (column, type_) in enumerate(zip(columns, self._types, strict=True))
        ]
        local, written = "false", "NULL::VARCHAR"
        for i, column in enumerate(columns):
            if column.timezone is not None:
                local = self._casts[i].local
            if column.name == key and column.dtype is DType.INT64 and self._types[i] == "VARCHAR":
                # A key with leading zeros as written, null for any other.
                odd = f"CAST(k{i} AS VARCHAR) <> v{i} AND regexp_matches(v{i}, {ZERO_LED})"
                written = f"CASE WHEN {odd} THEN v{i} END"
        wrong = [
            f"(CASE WHEN k{i} IS NULL THEN {cast_.present} ELSE false END)"
            for i, cast_ in enumerate(self._casts)
        ]
        selected = ", ".join(f"{values[place]} AS v{i}" for i, place in enumerate(places))
        casts = ", ".join(f"{cast_.value} AS k{i}" for i, cast_ in enumerate(self._casts))
        cells = f"(SELECT *, {casts} FROM (SELECT {selected} FROM {rows.relation}))"
        results = ", ".join(f"k{i}" for i in range(len(columns)))
        self.cells = (
            f'SELECT {results}, {local} AS "{_LOCAL}", {written} AS "{_WRITTEN}", '
            f"{' OR '.join(wrong)} AS wrong FROM {cells}"
        )
        errors = ", ".join(
            f"CASE WHEN {condition} THEN {{'place': {i}, 'value': CAST(v{i} AS VARCHAR)}} END"
            for i, condition in enumerate(wrong)
        )
        self.wrong_cells = (
            "SELECT row, cell.place, cell.value FROM (SELECT row, unnest(errors) AS cell FROM "
            f"(SELECT row_number() OVER () AS row, [{errors}] AS errors, {' OR '.join(wrong)} AS "
            f"wrong FROM {cells}) WHERE wrong) WHERE cell IS NOT NULL ORDER BY row, cell.place"
        )

    def format_value(self, place: int, value: str) -> str:
        """Format a value of the column at `place`; values other than text with their type."""
        type_ = self._types[place]
        return repr(value[:_SHOWN]) if type_ == "VARCHAR" else f"{value[:_SHOWN]} ({type_})"


def _read_type(column: Column) -> pa.DataType:
    return column.arrow if column.timezone is None else pa.timestamp("us")
