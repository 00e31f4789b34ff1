"""Read a table as the chain does, and profile its cells by the chain's casting rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from platform_assets.components.scaffold.profile import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    TEXT,
    TIME,
    TYPES,
    ColumnProfile,
    ModelRequest,
    TableProfile,
)
from platform_assets.features.sources.casting import SPACES, cast, quoted
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.files import FileReader
from platform_assets.features.sources.losses import EXACT
from platform_assets.features.sources.sink import ZERO_LED, SourceRows, connect
from platform_assets.resources.source import SourceError
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import duckdb

_AMOUNT: Final = "[€$£¥₩]? ?[+-]?([1-9][0-9]{0,2}([.,' ][0-9]{3})+|[0-9]+)([.,][0-9]+)? ?[€$£¥₩%]?"
_DATE: Final = "[0-9]{1,2}[./-][0-9]{1,2}[./-][0-9]{2,4}( [0-9:]+( ?[AaPp][Mm])?)?"
_OTHERWISE: Final = quoted(f"^[{SPACES}]*({_AMOUNT}|{_DATE})[{SPACES}]*$")
"""Pattern of numbers and dates that the casting rules do not read, among others that they do."""
_CELLS: Final = 5_000_000
"""Cells counted at once, to bound the memory of a query."""


def profile_table(request: ModelRequest) -> TableProfile:
    """Read all rows of the table, and return the profile of its columns.

    Raises:
        SourceError: the file cannot be read, or is not a table.
    """
    wanted = [Column(request.target, DType.BYTES)]
    reader = FileReader(request.table, str(request.path), wanted, None, request.separator)
    table = _Table()
    reader.read_into(table)
    return table.profile()


class _Table:
    """A `RowSink` that holds the rows as they are in the source."""

    def __init__(self) -> None:
        self.database: duckdb.DuckDBPyConnection = connect()
        self._headers: list[str] = []
        self._types: list[str] = []

    def add(self, rows: SourceRows) -> None:
        headers = [*rows.headers, *rows.constants]
        texts = [
            "NULL::VARCHAR" if text is None else quoted(text) for text in rows.constants.values()
        ]
        cells = [*(f"c{place}" for place in range(len(rows.headers))), *texts]
        types = [*rows.types, *["VARCHAR"] * len(texts)]
        if not self._headers:
            named = ", ".join(f"{cell} AS c{place}" for place, cell in enumerate(cells))
            self.database.execute(f"CREATE TABLE cells AS SELECT {named} FROM {rows.relation}")
            self._headers, self._types = headers, types
            return
        if sorted(zip(headers, types, strict=True)) != sorted(
            zip(self._headers, self._types, strict=True)
        ):
            raise SourceError(
                f"{rows.name} has other columns than those before, or others of its types",
                "give all files the same columns, and run again",
            )
        ordered = ", ".join(cells[headers.index(header)] for header in self._headers)
        self.database.execute(f"INSERT INTO cells SELECT {ordered} FROM {rows.relation}")

    def profile(self) -> TableProfile:
        rows = int(self._fetch("SELECT count(*) FROM cells")[0][0])
        counts = Counter(self._headers)
        single = [n for n, header in enumerate(self._headers) if header and counts[header] == 1]
        columns = [
            ColumnProfile(
                *(self._headers[place], place + 1, self._types[place], rows, texts, values),
                {type_.name: count for type_, count in zip(TYPES, wrong, strict=True)},
                *counted,
            )
            for type_ in dict.fromkeys(self._types[place] for place in single)
            for places in _parts([n for n in single if self._types[n] == type_], rows)
            for place, texts, values, wrong, *counted in self._fetch(_profile_sql(places, type_))
        ]
        return TableProfile(
            rows,
            tuple(sorted(columns, key=lambda column: column.place)),
            tuple(header for header in counts if not header or counts[header] > 1),
            self._is_unique,
        )

    def _is_unique(self, key: ColumnProfile, time: ColumnProfile) -> bool:
        pair = ", ".join(
            cast(type_, f"c{profile.place - 1}", profile.source_type).value
            for profile, type_ in ((key, INTEGER if key.is_whole else TEXT), (time, TIME))
        )
        return bool(self._fetch(f"SELECT count(DISTINCT ({pair})) = count(*) FROM cells")[0][0])

    def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        return self.database.sql(query).fetchall()


def _parts(places: Sequence[int], rows: int) -> Iterator[Sequence[int]]:
    size = max(1, _CELLS // max(1, rows))
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _profile_sql(places: Sequence[int], type_: str) -> str:
    """Return SQL that profiles columns of one type, with a `ColumnProfile` row for each.

    The columns are stacked, since a rule costs more to compile than to apply.
    """
    casts = {type_name: cast(type_name, "v", type_) for type_name in TYPES}
    whole, number, text = (casts[type_name].value for type_name in (INTEGER, NUMBER, TEXT))
    is_text = type_ == "VARCHAR"
    otherwise = f"regexp_matches(v, {_OTHERWISE})" if is_text else "false"
    point = "contains(v, '.')" if is_text else str(type_ in {"FLOAT", "DOUBLE"})
    zeros = f"regexp_matches(v, {ZERO_LED})" if is_text else "false"
    wrong = ", ".join(
        f"count(*) FILTER (WHERE {cast_.value} IS NULL AND {cast_.present})"
        for cast_ in casts.values()
    )
    return f"""
        SELECT place, count(*) FILTER (WHERE {casts[TEXT].present}),
          count(*) FILTER (WHERE {casts[NUMBER].present}), [{wrong}],
          count(DISTINCT {text if is_text else "CAST(v AS VARCHAR)"}), count(DISTINCT whole),
          count(DISTINCT truth),
          min(number), max(number), count(*) FILTER (WHERE number IS NOT NULL AND {point}),
          count(*) FILTER (WHERE whole IS NOT NULL AND {zeros}),
          count(*) FILTER (WHERE abs(number) > {EXACT}
            AND TRY_CAST(number AS FLOAT) IS DISTINCT FROM number),
          count(*) FILTER (WHERE isinf(number)), min(time), max(time),
          count(*) FILTER (WHERE time IS NOT NULL AND {casts[TIME].local}),
          count(*) FILTER (WHERE {otherwise})
        FROM (SELECT *, {whole} AS whole, {number} AS number, {casts[TIME].value} AS time,
            {casts[BOOLEAN].value} AS truth
          FROM (SELECT unnest([{", ".join(map(str, places))}]) AS place,
            unnest([{", ".join(f"c{place}" for place in places)}]) AS v FROM cells))
        GROUP BY place"""
