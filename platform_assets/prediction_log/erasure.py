"""Erase the rows of an entity or a client from a model's prediction log and its outcomes.

A file is replaced by one without the rows: staged, made durable, renamed. Gateways only add files
and delete old ones, so that nothing they write meanwhile is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.prediction_log.subjects import Subject
from platform_assets.resources.atomic_files import exclusive, remove_abandoned, replacing
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
"""Locks a model's folder: erasing and merging would undo each other's work."""
_PASSES: Final = 10
"""Gateways that merge files while rows are erased may bring some back, a few times at most."""
_SOURCE_ENTITY: Final = "entity"
"""Column of the copy of a source's outcomes."""

_Prediction = tuple[str, int]
"""Id and row."""


@dataclass(slots=True)
class Erasure:
    """What was erased, and the files that could not be read, each with the reason."""

    rows: int = 0
    outcomes: int = 0
    files: set[Path] = field(default_factory=set)
    unreadable: dict[Path, str] = field(default_factory=dict)
    predictions: set[_Prediction] = field(default_factory=set)
    """Those whose rows were found in any pass."""


def erase(folder: Path, subject: Subject) -> Erasure:
    """Erase a subject from the folder of a model, until nothing of it is found any more.

    Outcomes go first, because only the log says whose they are: an erasure that is interrupted is
    finished by the next one.

    Raises:
        OSError: a file cannot be written.
        TimeoutError: rows came back again and again, because gateways merged outcomes.
    """
    done = Erasure()
    if not folder.is_dir():
        return done
    # One at a time: two would each bring back what the other erased from a file.
    with exclusive(folder / LOCK):
        remove_abandoned(folder, "**/.*.part")
        for day in folder.glob(f"{LOG_DAY}*"):
            remove_replaced(day)
        for _ in range(_PASSES):
            before = done.rows, done.outcomes
            _erase_once(folder, subject, done)
            if (done.rows, done.outcomes) == before:
                return done
    raise TimeoutError(f"rows of {folder} came back {_PASSES} times; run this again")


def _erase_once(folder: Path, subject: Subject, done: Erasure) -> None:
    found = {path: _predictions(path, subject, done) for path in _files(folder)}
    done.predictions.update(*(some for some in found.values() if some))

    def outcomes(table: pa.Table) -> pa.Array:
        return _are_outcomes(table, subject, done.predictions)

    for path in _files(folder / OUTCOMES_FOLDER):
        done.outcomes += _rewrite(path, outcomes, done)
    for path, some in found.items():
        if some is not None:
            done.rows += _rewrite(
                path, lambda table: subject.select_rows(table[subject.column]), done
            )


def _files(folder: Path) -> Iterator[Path]:
    """Return the files, those that were set aside too: some of their rows may be readable."""
    for place in (folder, *sorted(folder.glob(f"{LOG_DAY}*"))):
        for suffix in ("", UNREADABLE_SUFFIX):
            yield from sorted(place.glob(f"[!.]*.parquet{suffix}"))


def _predictions(path: Path, subject: Subject, done: Erasure) -> set[_Prediction] | None:
    """Predictions in a file of the log that are the subject's; None where there are none.

    Files of earlier releases have rows without an id, to which no outcome belongs.
    """
    table = _read(path, (subject.column, LOG_ID, LOG_ROW), done)
    if table is None or subject.column not in table.column_names:
        return None
    found: set[_Prediction] | None = None
    with _noting(path, done):
        mine = table.filter(subject.select_rows(table[subject.column]))
        if mine.num_rows:
            has_ids = {LOG_ID, LOG_ROW} <= {*table.column_names}
            pairs = (_ids(mine, LOG_ID).to_pylist(), mine[LOG_ROW].to_pylist()) if has_ids else ()
            found = {*zip(*pairs, strict=True)}
    return found


def _ids(table: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    return table[name].cast(pa.string())


@contextmanager
def _noting(path: Path, done: Erasure) -> Iterator[None]:
    """Note what makes a file unusable, such as columns of another type, and leave the file."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, KeyError) as error:
        done.unreadable[path] = f"it is not of the prediction log: {error}"


def _are_outcomes(table: pa.Table, subject: Subject, predictions: Set[_Prediction]) -> pa.Array:
    """Which rows are outcomes of these predictions, or the subject's in the copy of a source."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if OUTCOME_ID not in table.column_names:
        if _SOURCE_ENTITY in table.column_names:
            return subject.select_rows(table[_SOURCE_ENTITY])
        return pa.array([False] * table.num_rows, pa.bool_())
    ids = pa.array({one for one, _ in predictions}, pa.string())
    own = _ids(table, OUTCOME_ID)
    likely = pc.is_in(own, value_set=ids).to_pylist()
    pairs = zip(own.to_pylist(), table[OUTCOME_ROW].to_pylist(), strict=True)
    are = [some and pair in predictions for some, pair in zip(likely, pairs, strict=True)]
    return pa.array(are, pa.bool_())


def _read(path: Path, columns: tuple[str, ...] | None, done: Erasure) -> pa.Table | None:
    """A file, or those of the columns that it has; None for one that is gone or unreadable."""
    from pyarrow import ArrowException, parquet

    try:
        with path.open("rb") as handle:
            file = parquet.ParquetFile(handle)
            names = file.schema_arrow.names
            return file.read(columns=[one for one in names if columns is None or one in columns])
    except FileNotFoundError:
        return None
    except (ArrowException, OSError) as error:
        done.unreadable[path] = str(error)
        return None


def _rewrite(path: Path, erased: Callable[[pa.Table], pa.Array], done: Erasure) -> int:
    """Write a file without these rows, and return how many they were; 0 where it is gone."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    table = _read(path, None, done)
    if table is None:
        return 0
    try:
        about = path.stat()
    except FileNotFoundError:
        return 0
    kept = table
    with _noting(path, done):
        kept = table.filter(pc.invert(erased(table)))
    count = int(table.num_rows - kept.num_rows)
    if not count:
        return 0
    done.files.add(path)
    if kept.num_rows == 0:
        path.unlink(missing_ok=True)
        return count
    with replacing(path, mode=about.st_mode & 0o777) as file:
        parquet.write_table(kept, file)
        # The oldest files are deleted first, and rewriting makes none newer.
        file.flush()
        os.utime(file.fileno(), ns=(about.st_atime_ns, about.st_mtime_ns))
    return count
