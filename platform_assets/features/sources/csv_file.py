"""One CSV file: fast with Arrow, and slowly once more to say which value is wrong."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.casting import (
    FALSE_WORDS,
    NULL_WORDS,
    TRUE_WORDS,
    parser,
)
from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import (
    SHOWN_PROBLEMS,
    Progress,
    Wrong,
    check_columns,
    conform_batch,
    ignored_columns,
    wrong_values,
)
from platform_assets.resources.source import ColumnsError, SourceError
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pyarrow as pa

_FIX: Final = "correct the source file and run again"
_BLOCK_BYTES: Final = 4 << 20
_SHOWN: Final = 40
_OTHER_MARKS: Final = {";": "semicolons (';')", "\t": "tabs"}


def read_csv(
    path: Path, columns: Sequence[Column], progress: Progress
) -> tuple[pa.Table, tuple[str, ...]]:
    """Read a UTF-8 file with a header line.

    Returns:
        `columns` in their declared types, and the names of those that were ignored.

    Raises:
        SourceError: it names the line of bytes that are no UTF-8, or rows, lines and values.
    """
    import pyarrow as pa

    name = f"the source file {path}"
    header = csv_header(path)
    check_columns(name, header, columns)
    batches: list[pa.RecordBatch] = []
    rows = 0
    try:
        for batch in _batches(path, columns):
            batches.append(conform_batch(name, batch, columns, rows))
            rows += batch.num_rows
            progress.at(f"reading {path.name}", rows)
    except (pa.ArrowInvalid, SourceError) as exc:
        # The fast parser stops at its first complaint, in its own words. Read again slowly,
        # to say which rows are wrong and how.
        wrong = list(itertools.islice(_each_wrong(path, columns), SHOWN_PROBLEMS + 1))
        if wrong:
            raise wrong_values(name, wrong) from exc
        if isinstance(exc, SourceError):
            raise
        raise SourceError(f"{name}: {exc}", _FIX) from exc
    _check_quotes(path)
    schema = pa.schema([(column.name, column.arrow) for column in columns])
    return pa.Table.from_batches(batches, schema=schema), ignored_columns(header, columns)


def _batches(path: Path, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    # A time that may lack its offset is read as text: Arrow's parser wants all or none.
    types = {one.name: pa.string() if one.timezone is not None else one.arrow for one in columns}
    convert = pa_csv.ConvertOptions(
        column_types=types,
        include_columns=[column.name for column in columns],
        null_values=sorted(NULL_WORDS),
        true_values=TRUE_WORDS,
        false_values=FALSE_WORDS,
    )
    read = pa_csv.ReadOptions(block_size=_BLOCK_BYTES)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    with pa_csv.open_csv(path, read, parse, convert) as reader:
        yield from reader


def _check_quotes(path: Path) -> None:
    """Refuse a file whose rest would be taken for one value, without a complaint by anybody."""
    with path.open("rb") as file:
        marks = sum(block.count(b'"') for block in iter(partial(file.read, _BLOCK_BYTES), b""))
    if marks % 2 == 0:
        return
    row = line = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                row, line = row + bool(cells), reader.line_num
        except csv.Error as exc:
            # The header is no row.
            raise SourceError(
                f"the source file {path} has a quotation mark that is not closed, or not where a "
                f"value begins and ends, in row {row} (line {line + 1})",
                "close it, or write it twice where it is part of a quoted value, and run again",
            ) from exc


def csv_header(path: Path) -> list[str]:
    """Return the names of the columns; nothing behind the first line is looked at.

    Raises:
        SourceError: the file is empty or no UTF-8, or its values are separated by no commas.
        OSError: the file cannot be read.
    """
    for _, cells in _rows(path):
        mark = next((mark for mark in _OTHER_MARKS if mark in cells[0]), None)
        # A model reads two columns at least.
        if len(cells) == 1 and mark is not None:
            raise ColumnsError(
                f"the source file {path} has one column, {cells[0][:_SHOWN]!r}: it looks separated "
                f"by {_OTHER_MARKS[mark]}, and commas are expected",
                "save the file with commas between its values, and run again",
            )
        return cells
    raise SourceError(
        f"the source file {path} is empty", "write a header line and rows to it, and run again"
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except UnicodeDecodeError as exc:
        raise SourceError(
            f"the source file {path} is not UTF-8 text: line {_line_not_utf8(path)} holds "
            f"other bytes",
            "save the file as UTF-8 and run again",
        ) from exc
    except csv.Error as exc:
        raise SourceError(f"the source file {path} is no CSV: {exc}", _FIX) from exc


def _line_not_utf8(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _each_wrong(path: Path, columns: Sequence[Column]) -> Iterator[Wrong]:
    rows = _rows(path)
    _, header = next(rows)
    parsers = [
        (header.index(column.name), column, parser(column))
        for column in columns
        if column.dtype is not DType.BYTES
    ]
    for row, (line, cells) in enumerate(rows, start=1):
        if len(cells) != len(header):
            count = "1 value" if len(cells) == 1 else f"{len(cells)} values"
            yield f"row {row} (line {line})", None, f"has {count}, not {len(header)}"
            continue
        for index, column, parse in parsers:
            cell = cells[index]
            if cell in NULL_WORDS:
                continue
            try:
                parse(cell)
            except (ValueError, OverflowError):
                yield f"row {row} (line {line})", column, f"{cell[:_SHOWN]!r}"
