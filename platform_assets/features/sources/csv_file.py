"""One CSV file, plain or gzipped: its dialect, its rows and its structural errors."""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from platform_assets.features.sources.casting import file_in_sql, quoted
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import SHOWN_PROBLEMS
from platform_assets.features.sources.sink import RowSink, SourceRows
from platform_assets.resources.source import ColumnsError, SourceError

_SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_UTF16: Final = tuple(
    mark.decode("utf-8", "surrogateescape") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
)
"""First two bytes of a UTF-16 file, as surrogates."""
_SHOWN: Final = 40
_LONGEST_LINE: Final = 16 << 20
_CHUNK_ROWS: Final = 16_384
_FIX: Final = "correct the source file and run again"
_AS_UTF8: Final = "save it as UTF-8 with a value for each column, and run again"


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A UTF-8 file with a header line; errors refer to it by `name` and `part`.

    `constants` are the columns that its folder names define, with their values.
    """

    path: Path
    name: str
    part: str
    constants: Mapping[str, str | None]
    separator: str | None
    columns: Sequence[Column]

    def header(self) -> tuple[list[str], str, int]:
        """Return the column names, the separator, and the number of blank lines before them.

        The separator is that of the model file, else the one that yields most wanted columns.

        Raises:
            SourceError: the separator is ambiguous, or the file is empty or not text.
            OSError: the file cannot be read.
        """
        wanted = {column.header for column in self.columns} - set(self.constants)
        readings = []
        for mark in [self.separator] if self.separator else _SEPARATORS:
            line, cells = next(self._cells(mark), (1, []))
            readings.append((cells, mark, line - 1))
        if not readings[0][0]:
            raise SourceError(
                f"{self.name} is empty", "write a header line and rows to it, and run again"
            )
        if not all(_is_text(cell) for cells, _, _ in readings for cell in cells):
            start = readings[0][0][0][:2]
            problem = "its first line holds other bytes" if start not in _UTF16 else "it is UTF-16"
            raise SourceError(f"{self.name} is not UTF-8 text: {problem}", _AS_UTF8)
        best = max(readings, key=lambda reading: (len(wanted & set(reading[0])), len(reading[0])))
        # A separator that does not occur yields a single column.
        fitting = {
            tuple(cells): _SEPARATORS.get(mark, mark)
            for cells, mark, _ in reversed(readings)
            if wanted <= set(cells)
        }
        if len(fitting) > 1:
            problem = f"may be separated by {' or by '.join(reversed(fitting.values()))}"
            raise ColumnsError(f"{self.name} {problem}", "say source.separator in the model file")
        return best

    def read_into(self, sink: RowSink) -> None:
        """Add all rows; SourceError if the file is not a table or not of the declared types."""
        import duckdb

        header, separator, blank = self.header()
        # DuckDB takes a line break in a header for the end of it.
        if not any(mark in cell for cell in header for mark in "\r\n"):
            # It stops at its first complaint, in its own words; behind its first rows that is an
            # OSError of Arrow's reader.
            with suppress(duckdb.Error, OSError):
                sink.add(self._rows(header, separator, blank))
                return
        self._check_structure(separator)
        self._read_slowly(sink, header, separator)

    def _rows(self, header: list[str], separator: str, blank: int) -> SourceRows:
        columns = ", ".join(f"'c{place}': 'VARCHAR'" for place in range(len(header)))
        relation = (
            f"read_csv({file_in_sql(self.path)}, auto_detect=false, header=true, skip={blank}, "
            f"delim={quoted(separator)}, quote='\"', escape='\"', columns={{{columns}}}, "
            f"compression='{'gzip' if self._is_gzipped else 'none'}', strict_mode=true)"
        )
        return self._part_of(relation, header, separator)

    def _read_slowly(self, sink: RowSink, header: list[str], separator: str) -> None:
        """Add the rows of a well-formed file, whose lines may be long and end in any way."""
        import pyarrow as pa

        lines, before = itertools.islice(self._cells(separator), 1, None), 0
        while chunk := [cells for _, cells in itertools.islice(lines, _CHUNK_ROWS)]:
            columns = {
                f"c{place}": pa.array([cell or None for cell in column], pa.string())
                for place, column in enumerate(zip(*chunk, strict=True))
            }
            sink.database.register("lines", pa.table(columns))
            sink.add(replace(self._part_of("lines", header, separator), before=before))
            before += len(chunk)

    def _part_of(self, relation: str, header: list[str], separator: str) -> SourceRows:
        return SourceRows(
            self.name,
            self.part,
            relation,
            header,
            ["VARCHAR"] * len(header),
            self.constants,
            locate=lambda rows: self._locate(rows, separator),
        )

    @property
    def _is_gzipped(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    def _cells(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """Yield number and cells of the lines that are not blank; undecodable bytes are surrogates.

        The last one has no cells where the file is not valid CSV.
        """
        opened: Any = gzip.open if self._is_gzipped else open
        csv.field_size_limit(_LONGEST_LINE)
        try:
            with opened(
                self.path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as file:
                reader = csv.reader(file, delimiter=separator, strict=True)
                line = 0
                for cells in reader:
                    line = reader.line_num
                    if cells:
                        yield line, cells
        except csv.Error:
            yield line + 1, []
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise SourceError(f"{self.name} is damaged: {exc}", _FIX) from exc

    def _locate(self, rows: Sequence[int], separator: str) -> list[str]:
        first = enumerate(itertools.islice(self._cells(separator), max(rows) + 1))
        lines = {row: line for row, (line, _) in first if row in rows}
        return [f"row {row} (line {lines.get(row, row + 1)})" for row in rows]

    def _check_structure(self, separator: str) -> None:
        """Return when every row has a value for each column, in UTF-8."""
        wrong = list(itertools.islice(self._wrong_rows(separator), SHOWN_PROBLEMS + 1))
        if wrong:
            more = "; and more" if len(wrong) > SHOWN_PROBLEMS else ""
            problem = "; ".join(wrong[:SHOWN_PROBLEMS]) + more
            raise SourceError(f"{self.name} is not a table: {problem}", _AS_UTF8)

    def _wrong_rows(self, separator: str) -> Iterator[str]:
        rows = self._cells(separator)
        _, header = next(rows)
        for row, (line, values) in enumerate(rows, start=1):
            at = f"row {row} (line {line})"
            if not values:
                yield (
                    f"{at} has a quotation mark that is not closed, or not where a value begins "
                    "and ends"
                )
            elif len(values) != len(header):
                count = "1 value" if len(values) == 1 else f"{len(values)} values"
                yield f"{at} has {count}, not {len(header)}"
            for name, value in zip(header, values, strict=False):
                if not _is_text(value):
                    shown = value.encode("utf-8", "surrogateescape")[:_SHOWN]
                    yield f"{at}, {name}: {shown!r} is not UTF-8 text"


def _is_text(value: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in value)
