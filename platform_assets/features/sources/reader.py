"""What every kind of source offers, and how its rows become columns of the declared types."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from platform_assets.features.sources.casting import Mismatch, conform
from platform_assets.features.sources.columns import Column
from platform_assets.resources.source import ColumnsError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

Log = Callable[[str], None]
Wrong = tuple[str, Column | None, str]
"""A row, and what is wrong in it: a column and its value, or without a column a sentence's rest."""
SHOWN_PROBLEMS: Final = 5
_EVERY_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Raw:
    """A source that was read and not yet validated.

    `table` has the wanted columns in their declared types; what is missing is null. `parts`
    are the names and row counts of what it was put together from, in order. `ignored` are the
    columns that nobody wanted.
    """

    name: str
    table: pa.Table
    parts: tuple[tuple[str, int], ...]
    ignored: tuple[str, ...]
    fingerprint: str

    def row(self, index: int) -> str:
        """Name a row of the table as its source counts it, from 1."""
        if len(self.parts) == 1:
            return f"row {index + 1}"
        ends = list(itertools.accumulate(rows for _, rows in self.parts))
        part = bisect.bisect_right(ends, index)
        name, rows = self.parts[part]
        return f"row {index + 1 - ends[part] + rows} of {name}"


class SourceReader(Protocol):
    """One source, opened for the columns that a model wants."""

    @property
    def name(self) -> str:
        """What errors call it, such as "the source file /data/iris.csv"; holds no secret."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """Dagster's words for it."""
        ...

    def fingerprint(self) -> str:
        """The identity of the content; raises SourceError when it cannot be read."""
        ...

    def read(self, progress: Progress) -> Raw:
        """Read all rows; raises SourceError for what cannot be read as declared."""
        ...


class Progress:
    """Says every few seconds how far a long step is."""

    def __init__(self, log: Log | None = None, every_s: float = _EVERY_S) -> None:
        self._log, self._every_s = log, every_s
        self._said = time.monotonic()

    def at(self, doing: str, done: int, of: int | None = None) -> None:
        """Note that `done` rows are done; said when it is time."""
        now = time.monotonic()
        if self._log is None or now - self._said < self._every_s:
            return
        self._said = now
        total = "" if of is None else f" of {of:,} ({100 * done // max(1, of)} %)"
        self._log(f"{doing}: {done:,}{total} rows")


def check_columns(name: str, found: Sequence[str], columns: Sequence[Column]) -> None:
    """Return when every wanted column is there, once.

    Raises:
        ColumnsError: it names those that are missing or repeated.
    """
    wanted = [column.name for column in columns]
    missing = [one for one in wanted if one not in found]
    twice = [one for one in wanted if found.count(one) > 1]
    told = (("lacks", missing), ("repeats", twice))
    said = [f"{word} {', '.join(names)}" for word, names in told if names]
    if said:
        raise ColumnsError(
            f"{name} {' and '.join(said)} in its columns: it has {', '.join(found) or 'none'}",
            f"give it the columns {', '.join(wanted)}, in any order, or change the model file, "
            "and run again",
        )


def wrong_values(name: str, wrong: Sequence[Wrong]) -> SourceError:
    """The refusal of a source: one sentence for each column, whatever the number of its rows."""
    said: dict[Column | str, str] = {}
    remedies: dict[str, None] = {}
    for row, column, value in wrong[:SHOWN_PROBLEMS]:
        if column is None:
            said[row] = f"{row} {value}"
        elif column in said:
            said[column] += f", nor is {value} in {row}"
        else:
            said[column] = f"{row}, {column.name}: {value} is not {column.word}"
            remedies[column.remedy] = None
    more = "; and more" if len(wrong) > SHOWN_PROBLEMS else ""
    return SourceError(
        f"{name} has wrong values: {'; '.join(said.values())}{more}",
        f"{' or '.join(('correct the source', *remedies))}, and run again",
    )


def ignored_columns(found: Sequence[str], columns: Sequence[Column]) -> tuple[str, ...]:
    """The columns of a source that are not wanted, in its order."""
    wanted = {column.name for column in columns}
    return tuple(one for one in found if one not in wanted)


def conform_batch(
    name: str, batch: pa.RecordBatch, columns: Sequence[Column], first_row: int
) -> pa.RecordBatch:
    """Bring the wanted columns of a batch to their declared types, without losing anything.

    Args:
        name: what errors call the source.
        batch: has at least `columns`.
        columns: what is wanted, in this order.
        first_row: how many rows of the source came before it.

    Raises:
        SourceError: it names rows, columns and values that are of another type.
    """
    import pyarrow as pa

    arrays, wrong = [], []
    for column in columns:
        try:
            arrays.append(conform(batch.column(column.name), column))
        except Mismatch as exc:
            for row, value in itertools.islice(exc.examples, SHOWN_PROBLEMS + 1):
                wrong.append((first_row + row + 1, column, value))
    if wrong:
        wrong.sort(key=lambda one: one[0])
        raise wrong_values(name, [(f"row {row}", column, value) for row, column, value in wrong])
    schema = pa.schema([(column.name, column.arrow) for column in columns])
    return pa.record_batch(arrays, schema=schema)
