"""A model's folder of the prediction log: files are complete, and deleted by age and size."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from serving_gateway.contract import (
    LOG_AGE,
    LOG_DAY,
    LOG_ID,
    LOG_LATENCY,
    LOG_SCHEMA,
    LOG_SCHEMA_KEY,
    LOG_SCORE,
    LOG_TIME,
    UNREADABLE_SUFFIX,
)

log = logging.getLogger(__name__)

_STALE_SECONDS: Final = 3600.0
"""Age of a staged file whose process must have died."""
_CHECK_SECONDS: Final = 600.0
_CHECK_SHARE: Final = 0.01
"""Part of the limit in bytes after which the files are checked again."""
_DISTINCT: Final = frozenset([LOG_ID, LOG_TIME, LOG_AGE, LOG_SCORE, LOG_LATENCY])
"""Columns with as many distinct values as rows, for which looking for equal ones costs time."""


@dataclass(slots=True, eq=False)
class LogFolder:
    """The files of one model; older ones are deleted beyond `max_bytes` or `max_days`.

    The limits are checked after each hundredth of `max_bytes` that is written, and after ten
    minutes.
    """

    path: Path
    max_bytes: int
    max_days: int
    _unchecked_bytes: int = 0
    _checked_at: float | None = None

    def write(self, name: str, batches: Sequence[Any]) -> None:
        """Write record batches of one schema to a file below the folder; may raise `OSError`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_batches(batches)
        table = table.replace_schema_metadata({LOG_SCHEMA_KEY: str(LOG_SCHEMA)})
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(path) as file:
            pq.write_table(table, file, use_dictionary=_dictionary_columns(table))
            self._unchecked_bytes += file.tell()
        try:
            self._keep_limits(path)
        except OSError as error:
            log_undeleted_files(error)

    def _keep_limits(self, newest: Path) -> None:
        now, at = time.monotonic(), self._checked_at
        is_due = at is None or now - at > _CHECK_SECONDS
        if is_due or self._unchecked_bytes > _CHECK_SHARE * self.max_bytes:
            self._unchecked_bytes, self._checked_at = 0, now
            first = datetime.now(UTC).date() - timedelta(days=self.max_days)
            delete_oldest(self.path, self.max_bytes, first, keep=newest)


@contextmanager
def require_pyarrow() -> Iterator[None]:
    """Guard imports that need pyarrow; RuntimeError where it cannot be imported."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"GATEWAY_SAMPLE_DIR is set, but pyarrow cannot be imported: {error}"
        ) from error


@contextmanager
def staged_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears at `path`, durably, once complete; an error leaves nothing."""
    staged = path.with_name(f".{path.name}.staged")
    try:
        with staged.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        with suppress(OSError):
            staged.unlink()
        raise


def _dictionary_columns(table: Any) -> list[str]:
    """Columns to be written with a dictionary of their values: of text and integers."""
    return [
        field.name
        for field in table.schema
        if field.name not in _DISTINCT and str(field.type) in {"string", "int64", "int32"}
    ]


class _File(NamedTuple):
    written_at: float
    size: int
    path: Path


def delete_oldest(folder: Path, max_bytes: int, first_day: date, *, keep: Path) -> None:
    """Delete what is older than `first_day`, and the oldest files beyond `max_bytes`.

    Never `keep`; files that an ended process left behind go too. Outside the folders of days, files
    in `folder` itself are of earlier releases; others are not the log's.
    """
    files = sorted(_files(folder))
    total = sum(file.size for file in files)
    for written_at, size, path in files:
        is_old = _day(path, written_at) < first_day
        if path != keep and (is_old or total > max_bytes) and delete(path):
            total -= size
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    for day in folder.glob(f"{LOG_DAY}*"):
        # A writer may just have made the folder of one of the last days for a file to come.
        if _day(day / "any", 0) < yesterday:
            with suppress(OSError):
                day.rmdir()


def delete(path: Path) -> bool:
    """Delete a file; a failure is logged, and does not keep others from being deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log_undeleted_files(error)
        return False
    return True


def log_undeleted_files(error: OSError) -> None:
    """Log why files that should be deleted remain."""
    log.warning("old files were not deleted", extra={"reason": str(error)})


def day_folders(folder: Path) -> Iterator[Path]:
    """The folders of days; what is behind a link is not the log's, and never deleted."""
    return (day for day in folder.glob(f"{LOG_DAY}*") if not day.is_symlink())


def complete_files(place: Path, now: float) -> Iterator[tuple[Path, os.stat_result]]:
    """The complete files in a folder; none if it is not a folder, or cannot be read.

    Staged ones that are stale at the time `now` are deleted.
    """
    with suppress(NotADirectoryError, FileNotFoundError, PermissionError):
        for path in place.iterdir():
            with suppress(FileNotFoundError):
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                if path.suffix in {".parquet", UNREADABLE_SUFFIX}:
                    yield path, status
                elif path.suffix == ".staged" and now - status.st_mtime > _STALE_SECONDS:
                    delete(path)


def _files(folder: Path) -> Iterator[_File]:
    for place in (folder, *day_folders(folder)):
        for path, status in complete_files(place, time.time()):
            yield _File(status.st_mtime, status.st_size, path)


def _day(path: Path, written_at: float) -> date:
    """The day of a file by its folder; without one, the day when it was written."""
    with suppress(ValueError):
        return date.fromisoformat(path.parent.name.removeprefix(LOG_DAY))
    return datetime.fromtimestamp(written_at, UTC).date()
