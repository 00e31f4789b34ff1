"""Merge the many small files of ended days, which take longer to open than to read.

A merged file is staged, made durable and renamed, and names the files it replaces
(`merged_files`), so that each row counts once at any time: for readers, and after a crash for the
next merge, which deletes what the last one left behind. Gateways only add files and delete old
ones.
"""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from platform_assets.prediction_log.erasure import LOCK
from platform_assets.resources.atomic_files import lock_file, open_replacement, remove_abandoned
from platform_assets.resources.merged_files import MERGED, remove_replaced, replacing_metadata
from serving_gateway.contract import LOG_DAY, LOG_SCHEMA_KEY

if TYPE_CHECKING:
    import pyarrow as pa

_LARGE_BYTES: Final = 16 * 1024 * 1024
"""Size from which a file is not merged."""
_MOST_BYTES: Final = 32 * 1024 * 1024
"""Total size of the files merged into one: files expire as a whole, and are read into memory."""
_ROW_GROUP: Final = 131_072
"""Rows in memory at once."""


class MergedLog(NamedTuple):
    """The number of files merged, and of the resulting files."""

    before: int
    after: int


class _SmallFile(NamedTuple):
    path: Path
    about: os.stat_result


class _Unreadable(Exception):
    def __init__(self, path: Path) -> None:
        self.path = path


def merge_ended_days(folder: Path, today: date) -> MergedLog:
    """Merge the small files of each day before `today` (UTC) in the folder of a model.

    Unreadable files are left unchanged.

    Raises:
        OSError: a file cannot be written; no row is lost.
    """
    before = after = 0
    if not folder.is_dir():
        return MergedLog(before, after)
    with lock_file(folder / LOCK):
        remove_abandoned(folder, "*/.*.part")
        for day in sorted(folder.glob(f"{LOG_DAY}*")):
            if day.is_symlink() or not _has_ended(day, today):
                continue
            remove_replaced(day)
            for group in _groups(day):
                before, after = before + _merge(day, group), after + 1
    return MergedLog(before, after)


def _has_ended(day: Path, today: date) -> bool:
    try:
        return date.fromisoformat(day.name.removeprefix(LOG_DAY)) < today
    except ValueError:
        return False


def _groups(day: Path) -> Iterator[list[_SmallFile]]:
    """Yield groups of files with the same schema to merge, oldest first."""
    alike: defaultdict[bytes, list[_SmallFile]] = defaultdict(list)
    for file in sorted(
        _small_files(day), key=lambda member: (member.about.st_mtime_ns, member.path)
    ):
        if (schema := _schema_key(file.path)) is not None:
            alike[schema].append(file)
    for files in alike.values():
        group: list[_SmallFile] = []
        for file in files:
            if sum(member.about.st_size for member in group) + file.about.st_size > _MOST_BYTES:
                yield from (group,) if len(group) > 1 else ()
                group = []
            group.append(file)
        yield from (group,) if len(group) > 1 else ()


def _small_files(day: Path) -> Iterator[_SmallFile]:
    for path in day.glob("[!.]*.parquet"):
        with suppress(FileNotFoundError):  # a gateway deleted it
            about = path.lstat()
            if path.is_file() and not path.is_symlink() and about.st_size < _LARGE_BYTES:
                yield _SmallFile(path, about)


def _schema_key(path: Path) -> bytes | None:
    """Return the key of files that may be merged with each other; None for an unreadable one."""
    from pyarrow import ArrowException, parquet

    try:
        schema = parquet.read_schema(path)
    except (ArrowException, OSError):
        return None
    version: bytes = (schema.metadata or {}).get(LOG_SCHEMA_KEY.encode(), b"")
    return version + b" " + bytes(schema.remove_metadata().serialize())


def _merge(day: Path, group: Sequence[_SmallFile]) -> int:
    """Merge these files into one, delete them, and return their number."""
    while True:
        try:
            _write(day / f"{MERGED}{uuid.uuid4().hex}.parquet", group)
        except _Unreadable as error:
            group = [member for member in group if member.path != error.path]
        else:
            break
    for member in group:
        member.path.unlink(missing_ok=True)
    return len(group)


def _write(path: Path, group: Sequence[_SmallFile]) -> None:
    from pyarrow import parquet

    tables = _row_groups(group)
    first = next(tables, None)
    if first is None:  # all were deleted meanwhile
        return
    names = [member.path for member in group]
    schema = first.schema.with_metadata((first.schema.metadata or {}) | replacing_metadata(names))
    newest = max(member.about.st_mtime_ns for member in group)
    with open_replacement(path, mode=group[0].about.st_mode & 0o777) as file:
        with parquet.ParquetWriter(file, schema) as writer:
            writer.write_table(first.cast(schema))
            for table in tables:
                writer.write_table(table.cast(schema))
        # The oldest files are deleted first, so merging must not make a file newer.
        file.flush()
        os.utime(file.fileno(), ns=(newest, newest))


def _row_groups(group: Sequence[_SmallFile]) -> Iterator[pa.Table]:
    import pyarrow as pa

    held: list[Any] = []
    for member in group:
        table = _read(member.path)
        if table is not None:
            held.append(table)
        if sum(part.num_rows for part in held) >= _ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _read(path: Path) -> pa.Table | None:
    """Return the rows of a file; None if it is gone."""
    from pyarrow import ArrowException, parquet

    try:
        with path.open("rb") as handle:
            return parquet.ParquetFile(handle).read()
    except FileNotFoundError:
        return None
    except (ArrowException, OSError) as error:
        raise _Unreadable(path) from error
