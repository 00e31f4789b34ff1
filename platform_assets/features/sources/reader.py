"""Common parts of the readers: the table, progress, limits, and errors of columns and values."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.columns import Column
from platform_assets.model_spec import Label
from platform_assets.resources.source import ColumnsError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

Log = Callable[[str], object]
"""Takes a line of text."""
SHOWN_PROBLEMS: Final = 10
_EVERY_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A source after reading.

    `table` has the wanted columns in their declared types, null where a value is missing. `parts`
    are the names and row counts of its parts, in order. `ignored` are the columns that the model
    file does not name; `warnings` say what reading changed. `classes` are the labels in the order
    of the probabilities, () for a regression and before the source is validated.
    """

    name: str
    table: pa.Table
    parts: tuple[tuple[str, int], ...]
    ignored: tuple[str, ...]
    fingerprint: str = ""
    warnings: tuple[str, ...] = ()
    classes: tuple[Label, ...] = ()

    def row(self, index: int) -> str:
        """Name a row of the table by its number in the source, from 1."""
        part = 0
        while index >= self.parts[part][1]:
            index, part = index - self.parts[part][1], part + 1
        return f"row {index + 1}" + (f" of {self.parts[part][0]}" if len(self.parts) > 1 else "")

    def first(self, mask: pa.ChunkedArray) -> str:
        """Name the first row where the mask is true; there must be one."""
        import pyarrow.compute as pc

        return self.row(pc.index(mask, True).as_py())


class Progress:
    """Logs the progress of a long step every few seconds."""

    def __init__(self, log: Log | None = None, every_s: float = _EVERY_S) -> None:
        self._log, self._every_s = log, every_s
        self._logged_at = time.monotonic()

    def report(self, doing: str, done: int, of: int | None = None, what: str = "rows") -> None:
        """Log that `done` rows (or other units, `what`) are done, at most every few seconds."""
        now = time.monotonic()
        if self._log is None or now - self._logged_at < self._every_s:
            return
        self._logged_at = now
        total = "" if of is None else f" of {of:,} ({100 * done // max(1, of)} %)"
        self._log(f"{doing}: {done:,}{total} {what}")


@contextmanager
def time_limit(
    stop: Callable[[], object] | None, timeout: timedelta, late: threading.Event
) -> Iterator[None]:
    """Set `late` after `timeout`, and call `stop` if given."""

    def end() -> None:
        late.set()
        if stop is not None:
            stop()

    timer = threading.Timer(timeout.total_seconds(), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_columns(name: str, present: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise ColumnsError for wanted columns that are missing or repeated."""
    wanted = list(dict.fromkeys(column.header for column in columns))
    wrong = {
        "lacks": [header for header in wanted if header not in present],
        "repeats": [header for header in wanted if present.count(header) > 1],
    }
    problems = [f"{verb} {', '.join(names)}" for verb, names in wrong.items() if names]
    if problems:
        raise ColumnsError(
            f"{name} {' and '.join(problems)} in its columns: it has "
            f"{', '.join(present) or 'none'}",
            f"give it the columns {', '.join(wanted)}, in any order, or change the model file "
            "(`from:` takes a column of another name), and run again",
        )


def ignored_columns(present: Sequence[str], columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the columns of a source that are not wanted, in its order."""
    wanted = {column.header for column in columns}
    return tuple(header for header in present if header not in wanted)


def wrong_values(name: str, wrong: Sequence[tuple[str, Column, str]], more: int = 0) -> SourceError:
    """Return the error with row, column and value of each wrong cell, and how many `more`."""
    problems: dict[Column, str] = {}
    for row, column, value in wrong:
        if column in problems:
            problems[column] += f", nor is {value} in {row}"
        else:
            header = "" if column.header == column.name else f" ({column.header!r})"
            problems[column] = f"{row}, {column.name}{header}: {value} is not {column.word}"
    others = f"; and {more:,} more" if more > 0 else ""
    remedies = dict.fromkeys(column.remedy for column in problems)
    return SourceError(
        f"{name} has wrong values: {'; '.join(problems.values())}{others}",
        f"{' or '.join(('correct the source', *remedies))}, and run again",
    )


def table_fingerprint(table: pa.Table, order: Sequence[str] = ()) -> str:
    """Return the SHA-256 of names, types and values: 64 lower-case hexadecimal digits.

    Rows are hashed in their order, or sorted by the columns `order` if given.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    if order and table.num_rows:
        keys = [(name, "ascending") for name in order]
        table = table.take(pc.sort_indices(table.select(list(order)), sort_keys=keys))
    digest = hashlib.sha256(f"{table.num_rows} {table.schema.remove_metadata()}\n".encode())
    for batch in table.to_batches():
        # As text: the memory behind a null is undefined. Texts are quoted, nulls are not.
        sink = pa.BufferOutputStream()
        csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
        digest.update(sink.getvalue())
    return digest.hexdigest()
