"""Files of outcomes: each is durable once `write` returns, and small ones are merged.

A file is staged under a name that starts with a dot, made durable, and renamed. Merging first
writes one file of many, and removes those a while later: a reader sees a row twice rather than
never, and rows are distinguished by when they were received.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from serving_gateway.contract import OUTCOMES_FOLDER, log_day
from serving_gateway.telemetry.log_files import complete_files, day_folders, delete, staged_file

_FAN_IN: Final = 32
"""Small files of one day that are merged into one; as many of those are merged again."""
_LARGE_BYTES: Final = 1_048_576
"""Size in memory from which the rows of a file are not merged any more. On disk, equal rows take
next to no room, so that a file with a single outcome, repeated, would never be large."""
_GRACE_SECONDS: Final = 60.0
"""How long merged files remain for readers that have listed them."""
_CHECK_SECONDS: Final = 600.0
"""Longest time between two looks at the limits of a model that gets outcomes."""
_DAY_SECONDS: Final = 86_400.0


class OutcomeFiles:
    """Writes to `directory`; deletes a model's oldest files beyond `max_bytes` or `max_days`.

    Used by one thread.

    `replica` is part of the names, so that replicas may share the directory.
    """

    def __init__(
        self,
        directory: Path,
        replica: str,
        *,
        max_bytes: int,
        max_days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._replica = re.sub(r"[^A-Za-z0-9._]", "_", replica)
        self._max_bytes, self._max_days = max_bytes, max_days
        self._clock = clock
        self._numbers = count(1)
        self._small: defaultdict[tuple[Path, int], list[Path]] = defaultdict(list)
        """Files to be merged, by folder and number of merges so far."""
        self._merged: list[tuple[float, Path]] = []
        """Files whose rows are in another one, with the time to remove them."""
        self._next_check: dict[Path, float] = {}
        """When to look at the limits again, by a model's folder."""

    def write(self, model_name: str, table: Any) -> None:
        """Write an Arrow table to a file of this day; OSError when it cannot be written."""
        day = log_day(datetime.fromtimestamp(self._clock(), UTC).date())
        folder = self._directory / model_name / OUTCOMES_FOLDER / day
        self._write(folder, 0, iter([table]))

    def tidy(self, *, everything: bool = False) -> None:
        """Merge small files, and remove merged ones; OSError when that cannot be done."""
        for (folder, level), paths in [*self._small.items()]:
            if len(paths) >= _FAN_IN:
                self._merge(folder, level)
            elif not paths or (everything and len(paths) == 1):
                del self._small[folder, level]
        now = self._clock()
        due = [path for at, path in self._merged if everything or at <= now]
        self._merged = [entry for entry in self._merged if entry[1] not in due]
        for path in due:
            path.unlink(missing_ok=True)
        for folder, at in [*self._next_check.items()]:
            if at <= now:
                self._delete_oldest(folder)

    def _write(self, folder: Path, level: int, tables: Iterator[Any]) -> None:
        import pyarrow.parquet as pq

        _make_durable(folder)
        name = f"{self._replica}-{int(self._clock())}-{next(self._numbers):06d}.parquet"
        path, first, size = folder / name, next(tables), 0
        with staged_file(path) as file, pq.ParquetWriter(file, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)
                size += table.nbytes
        _sync(folder)
        self._next_check.setdefault(folder.parent, 0.0)
        if size < _LARGE_BYTES:
            self._small[folder, level].append(path)

    def _merge(self, folder: Path, level: int) -> None:
        paths = self._small.pop((folder, level))
        present = [path for path in paths if path.exists()]  # the others were the oldest, or erased
        if present:
            self._write(folder, level + 1, _row_groups(present))
            due = self._clock() + _GRACE_SECONDS
            self._merged += [(due, path) for path in present]
        self._delete_oldest(folder.parent)

    def _delete_oldest(self, folder: Path) -> None:
        """Delete a model's oldest files beyond the limits, and what is stale."""
        now, files = self._clock(), sorted(self._files(folder))
        self._next_check[folder] = now + _CHECK_SECONDS
        total, first = sum(size for _, _, size in files), now - self._max_days * _DAY_SECONDS
        for at, path, size in files[:-1]:
            if total <= self._max_bytes and at >= first:
                return
            total -= size if delete(path) else 0
            with suppress(OSError):  # there are others of that day
                path.parent.rmdir()

    def _files(self, folder: Path) -> Iterator[tuple[float, Path, int]]:
        for day in day_folders(folder):
            for path, status in complete_files(day, self._clock()):
                yield status.st_mtime, path, status.st_size


def _row_groups(paths: Sequence[Path]) -> Iterator[Any]:
    """The rows of files, as many at once as make a large file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[Any] = []
    for path in paths:
        tables.append(pq.ParquetFile(path).read())
        if sum(table.nbytes for table in tables) >= _LARGE_BYTES:
            yield pa.concat_tables(tables)
            tables.clear()
    if tables:
        yield pa.concat_tables(tables)


def _make_durable(folder: Path) -> None:
    """Make a folder and those above it, so that they outlast a crash."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
