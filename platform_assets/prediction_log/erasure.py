"""Erase the rows of an entity or a client from a model's prediction log and its outcomes.

A file is replaced by one without the rows: staged, made durable, renamed. Since gateways only add
files and delete old ones, nothing they write meanwhile is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.prediction_log.subjects import Subject
from platform_assets.resources.atomic_files import lock_file, open_replacement, remove_abandoned
from platform_assets.resources.merged_files import remove_replaced
from serving_gateway.contract import (
    LOG_DAY,
    LOG_ID,
    LOG_ROW,
    OUTCOME_ID,
    OUTCOME_ROW,
    OUTCOMES_FOLDER,
    UNREADABLE_SUFFIX,
)

if TYPE_CHECKING:
    import pyarrow as pa

LOCK: Final = ".erase.lock"
"""Lock of a model's folder: erasing and merging would undo each other's work."""
_PASSES: Final = 10
"""Maximum number of passes: gateways that merge files meanwhile may bring rows back."""
_SOURCE_ENTITY: Final = "entity"
"""Column in the copy of a source's outcomes."""

_Prediction = tuple[str, int]
"""Id and row of a prediction."""


@dataclass(slots=True)
class Erasure:
    """Counts of what was erased, and the unreadable files, each with the reason."""

    rows: int = 0
    outcomes: int = 0
    files: set[Path] = field(default_factory=set)
    unreadable: dict[Path, str] = field(default_factory=dict)
    predictions: set[_Prediction] = field(default_factory=set)
    """Predictions whose rows were found in any pass."""


def erase(folder: Path, subject: Subject) -> Erasure:
    """Erase a subject from the folder of a model, repeating until nothing of it is found.

    Outcomes go first, because only the log says whose they are, so that the next erasure can
    finish an interrupted one.

    Raises:
        OSError: a file cannot be written.
        TimeoutError: rows kept coming back, because gateways merged outcomes.
    """
    erasure = Erasure()
    if not folder.is_dir():
        return erasure
    # One at a time: two erasures would each restore rows that the other erased from a file.
    with lock_file(folder / LOCK):
        remove_abandoned(folder, "**/.*.part")
        for day in folder.glob(f"{LOG_DAY}*"):
            remove_replaced(day)
        for _ in range(_PASSES):
            before = erasure.rows, erasure.outcomes
            _erase_once(folder, subject, erasure)
            if (erasure.rows, erasure.outcomes) == before:
                return erasure
    raise TimeoutError(f"rows of {folder} came back {_PASSES} times; run this again")


def _erase_once(folder: Path, subject: Subject, erasure: Erasure) -> None:
    by_file = {path: _predictions(path, subject, erasure) for path in _files(folder)}
    erasure.predictions.update(*(predictions for predictions in by_file.values() if predictions))

    def outcomes(table: pa.Table) -> pa.Array:
        return _are_outcomes(table, subject, erasure.predictions)

    for path in _files(folder / OUTCOMES_FOLDER):
        erasure.outcomes += _rewrite(path, outcomes, erasure)
    for path, predictions in by_file.items():
        if predictions is not None:
            erasure.rows += _rewrite(
                path, lambda table: subject.select_rows(table[subject.column]), erasure
            )


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files, including those set aside: some of their rows may be readable."""
    for place in (folder, *sorted(folder.glob(f"{LOG_DAY}*"))):
        for suffix in ("", UNREADABLE_SUFFIX):
            yield from sorted(place.glob(f"[!.]*.parquet{suffix}"))


def _predictions(path: Path, subject: Subject, erasure: Erasure) -> set[_Prediction] | None:
    """Return the subject's predictions in a file of the log; None if it has none.

    Files of earlier releases have rows without an id, to which no outcomes belong.
    """
    table = _read(path, (subject.column, LOG_ID, LOG_ROW), erasure)
    if table is None or subject.column not in table.column_names:
        return None
    predictions: set[_Prediction] | None = None
    with _recording_unreadable(path, erasure):
        mine = table.filter(subject.select_rows(table[subject.column]))
        if mine.num_rows:
            has_ids = {LOG_ID, LOG_ROW} <= {*table.column_names}
            pairs = (_ids(mine, LOG_ID).to_pylist(), mine[LOG_ROW].to_pylist()) if has_ids else ()
            predictions = {*zip(*pairs, strict=True)}
    return predictions


def _ids(table: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    return table[name].cast(pa.string())


@contextmanager
def _recording_unreadable(path: Path, erasure: Erasure) -> Iterator[None]:
    """Record why a file is unusable, for example columns of another type, and skip it."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, KeyError) as error:
        erasure.unreadable[path] = f"it is not of the prediction log: {error}"


def _are_outcomes(table: pa.Table, subject: Subject, predictions: Set[_Prediction]) -> pa.Array:
    """Mark the outcomes of these predictions, or of the subject in the copy of a source."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if OUTCOME_ID not in table.column_names:
        if _SOURCE_ENTITY in table.column_names:
            return subject.select_rows(table[_SOURCE_ENTITY])
        return pa.array([False] * table.num_rows, pa.bool_())
    ids = pa.array({id_ for id_, _ in predictions}, pa.string())
    own = _ids(table, OUTCOME_ID)
    likely = pc.is_in(own, value_set=ids).to_pylist()
    pairs = zip(own.to_pylist(), table[OUTCOME_ROW].to_pylist(), strict=True)
    are = [is_likely and pair in predictions for is_likely, pair in zip(likely, pairs, strict=True)]
    return pa.array(are, pa.bool_())


def _read(path: Path, columns: tuple[str, ...] | None, erasure: Erasure) -> pa.Table | None:
    """Read a file, or those of the columns that it has; None if it is gone or unreadable."""
    from pyarrow import ArrowException, parquet

    try:
        with path.open("rb") as handle:
            file = parquet.ParquetFile(handle)
            names = file.schema_arrow.names
            return file.read(columns=[name for name in names if columns is None or name in columns])
    except FileNotFoundError:
        return None
    except (ArrowException, OSError) as error:
        erasure.unreadable[path] = str(error)
        return None


def _rewrite(path: Path, erased: Callable[[pa.Table], pa.Array], erasure: Erasure) -> int:
    """Rewrite a file without these rows, and return their number; 0 if it is gone."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    table = _read(path, None, erasure)
    if table is None:
        return 0
    try:
        about = path.stat()
    except FileNotFoundError:
        return 0
    remaining = table
    with _recording_unreadable(path, erasure):
        remaining = table.filter(pc.invert(erased(table)))
    count = int(table.num_rows - remaining.num_rows)
    if not count:
        return 0
    erasure.files.add(path)
    if remaining.num_rows == 0:
        path.unlink(missing_ok=True)
        return count
    with open_replacement(path, mode=about.st_mode & 0o777) as file:
        parquet.write_table(remaining, file)
        # The oldest files are deleted first, so rewriting must not make a file newer.
        file.flush()
        os.utime(file.fileno(), ns=(about.st_atime_ns, about.st_mtime_ns))
    return count
