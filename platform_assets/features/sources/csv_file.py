"""One CSV file, plain or gzipped: its dialect, and what is wrong where it is no table."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from platform_assets.features.sources.builder import Rows, TableBuilder
from platform_assets.features.sources.casting import quoted
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import SHOWN_PROBLEMS
from platform_assets.resources.source import ColumnsError, SourceError

_SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SHOWN: Final = 40
_LONGEST_LINE: Final = 16 << 20
_FIX: Final = "correct the source file and run again"
_AS_UTF8: Final = "save it as UTF-8 with a value for each column, and run again"


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A UTF-8 file with a header line; `name` and `part` are what errors call it.

    `constants` are columns that its folders name, with their values.
    """

    path: Path
    name: str
    part: str
    constants: Mapping[str, str | None]
    separator: str | None
    columns: Sequence[Column]

    def header(self) -> tuple[list[str], str, int]:
        """Return the names of the columns, what separates them, and the blank lines before.

        The separator is that of the model file, else the one of those in use by which the file
        has the wanted columns.

        Raises:
            ColumnsError: none has, or several have.
            SourceError: the file is empty, or no text.
            OSError: the file cannot be read.
        """
        wanted = {column.header for column in self.columns} - set(self.constants)
        found = {}
        for mark in [self.separator] if self.separator else _SEPARATORS:
            line, cells = next(self._cells(mark), (0, []))
            found[mark] = cells, mark, max(0, line - 1 - sum(one.count("\n") for one in cells))
        if not all(_is_text(one) for cells, _, _ in found.values() for one in cells):
            raise SourceError(
                f"{self.name} is not UTF-8 text: its first line holds other bytes", _AS_UTF8
            )
        fitting = [mark for mark, (cells, _, _) in found.items() if wanted <= set(cells)]
        if not next(iter(found.values()))[0]:
            raise SourceError(
                f"{self.name} is empty", "write a header line and rows to it, and run again"
            )
        if len(fitting) == 1 or self.separator:
            return found[self.separator or fitting[0]]
        if fitting:
            said = "may be separated by " + " or by ".join(_SEPARATORS[one] for one in fitting)
            raise ColumnsError(f"{self.name} {said}", "say source.separator in the model file")
        return max(found.values(), key=lambda one: (len(wanted & set(one[0])), len(one[0])))

    def read_into(self, builder: TableBuilder) -> None:
        """Add all rows; raises SourceError for what is no table or not of the declared types."""
        import duckdb

        header, separator, blank = self.header()
        try:
            builder.add(self._rows(header, separator, blank))
        except duckdb.Error as exc:
            # DuckDB stops at its first complaint, in its own words. Read again slowly, to say
            # which rows are wrong and how.
            self._check_structure(separator)
            try:
                # It is well-formed: lines that end in two ways, or that are long or quoted.
                builder.add(self._rows(header, separator, blank, patient=True))
            except duckdb.Error:
                said = str(exc).partition("\n")[0]
                raise SourceError(f"{self.name} cannot be read as CSV: {said}", _FIX) from None

    def _rows(
        self, header: Sequence[str], separator: str, blank: int, *, patient: bool = False
    ) -> Rows:
        places = [f"c{index}" for index in range(len(header))]
        options = [
            quoted(str(self.path)),
            f"auto_detect=false, header=true, skip={blank}, quote='\"', escape='\"'",
            f"delim={quoted(separator)}",
            "columns={" + ", ".join(f"'{place}': 'VARCHAR'" for place in places) + "}",
            "compression='gzip'" if self._zipped else "compression='none'",
            f"parallel=false, strict_mode=false, max_line_size={_LONGEST_LINE}"
            if patient
            else "strict_mode=true",
        ]
        return Rows(
            self.name,
            self.part,
            f"read_csv({', '.join(options)})",
            header,
            places,
            ["VARCHAR"] * len(places),
            locate=lambda rows: self._located(rows, separator),
        ).with_constants(self.constants)

    @property
    def _zipped(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    @contextmanager
    def _text(self, **options: Any) -> Iterator[Any]:
        opened: Any = gzip.open if self._zipped else open
        try:
            with opened(self.path, "rt", encoding="utf-8-sig", newline="", **options) as file:
                yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise SourceError(f"{self.name} is damaged: {exc}", "write it again") from exc

    def _cells(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """The lines that are not blank, as number and cells; foreign bytes are surrogates."""
        csv.field_size_limit(_LONGEST_LINE)
        with self._text(errors="surrogateescape") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            try:
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
            except csv.Error as exc:
                yield -reader.line_num, [str(exc)]

    def _located(self, rows: Sequence[int], separator: str) -> list[str]:
        lines: dict[int, int] = {}
        for row, (line, _) in enumerate(self._cells(separator)):
            if row in rows:
                lines[row] = line
            if row >= max(rows):
                break
        return [f"row {row} (line {lines.get(row, row + 1)})" for row in rows]

    def _check_structure(self, separator: str) -> None:
        """Return when every row has a value for each column, in UTF-8."""
        cells = self._cells(separator)
        _, header = next(cells)
        said: list[str] = []
        row, last = 0, 1
        for row, (line, values) in enumerate(cells, start=1):
            at = f"row {row} (line {abs(line)})"
            if line < 0:
                at = f"row {row} (line {last + 1})"
                said.append(
                    f"{at} has a quotation mark that is not closed, or not where a value begins "
                    "and ends"
                )
            elif len(values) != len(header):
                count = "1 value" if len(values) == 1 else f"{len(values)} values"
                said.append(f"{at} has {count}, not {len(header)}")
            else:
                said += [
                    f"{at}, {name}: {_bytes(value)} is not UTF-8 text"
                    for name, value in zip(header, values, strict=True)
                    if not _is_text(value)
                ]
            last = line
            if len(said) > SHOWN_PROBLEMS:
                break
        if said:
            more = "; and more" if len(said) > SHOWN_PROBLEMS else ""
            raise SourceError(
                f"{self.name} is not a table: {'; '.join(said[:SHOWN_PROBLEMS])}{more}",
                _AS_UTF8,
            )


def _is_text(value: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in value)


def _bytes(value: str) -> str:
    return repr(value.encode("utf-8", "surrogateescape")[:_SHOWN])
