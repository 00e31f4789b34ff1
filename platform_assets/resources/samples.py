"""The gateways' log of their predictions: Parquet files in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import Field

from platform_assets.resources.folders import ModelFolders
from platform_assets.resources.merged_files import current_files, is_replaced
from serving_gateway.contract import LOG_DAY, LOG_TIME, LOG_VERSION, log_day

if TYPE_CHECKING:
    import pyarrow as pa


# Raised by pyarrow for files that are broken or of another format.
_UNREADABLE: Final = (OSError, ValueError, TypeError, NotImplementedError)
_ATTEMPTS: Final = 5

_T = TypeVar("_T")


class SamplesError(Exception):
    """The files cannot be read as the samples of one model; the message says why."""


class FilesMergedError(Exception):
    """A listed file is gone, and a merged one holds its rows."""


def retry_read(read: Callable[[], _T]) -> _T:
    """Repeat `read`, at most a few times, if files were merged meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(FilesMergedError):
            return read()
    return read()


@dataclass(frozen=True)
class Samples:
    """The newest samples of one version inside a window.

    `table` has the requested columns that at least one file holds, newest row last. `unreadable`
    names the files that are not complete Parquet files, each with the reason.
    """

    table: pa.Table
    files: int
    unreadable: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)


class SamplesFolder(ModelFolders):
    """The log, by day in `<root>/<model_name>/`; gateways write files and delete old ones.

    Files of earlier releases are in the model's folder itself.
    """

    root: str = Field(description="Folder below which every model has a folder of its log.")

    def window(
        self,
        model_name: str,
        version: int,
        *,
        since: datetime,
        max_rows: int,
        columns: Sequence[str],
    ) -> Samples:
        """Read the newest `max_rows` samples of a version, none older than `since`.

        `columns` are read beside `sample_time`; those that a file lacks are null there. Files
        that vanish meanwhile were rotated away and are ignored.

        Raises:
            SamplesError: the folder cannot be read, or files differ in the type of a column.
        """

        def read() -> tuple[list[pa.Table], list[str]]:
            tables: list[pa.Table] = []
            unreadable: list[str] = []
            for table in self.by_file(model_name, version, since, columns, unreadable):
                tables.append(table)
                if sum(table.num_rows for table in tables) >= max_rows:
                    break
            return tables, unreadable

        try:
            tables, unreadable = retry_read(read)
            newest = _newest_rows(tables, max_rows)
        except _UNREADABLE as error:
            raise SamplesError(
                f"the samples in {self.folder(model_name)} cannot be read as one table: {error}"
            ) from error
        return Samples(newest, len(tables), tuple(unreadable))

    def by_file(
        self,
        model_name: str,
        version: int | None,
        since: datetime,
        columns: Sequence[str],
        unreadable: list[str],
    ) -> Iterator[pa.Table]:
        """Yield the rows of `window` file by file, newest first; any version if None.

        A table has `sample_time` and those of the `columns` that its file holds. Files that
        cannot be read are added to `unreadable`, each with the reason.

        Raises:
            FilesMergedError: a file was merged with others meanwhile; see `retry_read`.
            OSError: the folder cannot be read.
        """
        for path in _newest_first(self.folder(model_name), since):
            try:
                table = _read(path, version, since, columns)
            except FileNotFoundError:
                _require_deleted(path)
            except _UNREADABLE as error:
                unreadable.append(f"{path.name}: {error}")
            else:
                yield table


def _require_deleted(path: Path) -> None:
    """Raise FilesMergedError if the vanished file was merged into another, not rotated away."""
    if is_replaced(path):
        raise FilesMergedError(path.name)


def _newest_first(folder: Path, since: datetime) -> list[Path]:
    first = log_day(since.astimezone(UTC).date())
    days = [day for day in folder.glob(f"{LOG_DAY}*") if day.name >= first]
    dated: list[tuple[int, str, Path]] = []
    for path in (path for place in (folder, *days) for path in current_files(place)):
        try:
            dated.append((path.stat().st_mtime_ns, path.name, path))
        except FileNotFoundError:  # or a dangling link
            _require_deleted(path)
        except OSError:
            continue
    return [path for _, _, path in sorted(dated, reverse=True)]


def _read(path: Path, version: int | None, since: datetime, columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import compute, parquet

    # A single handle: a file that is rotated away now can still be read to its end.
    with path.open("rb") as handle:
        file = parquet.ParquetFile(handle)
        present = [name for name in columns if name in file.schema_arrow.names]
        table = file.read(columns=[*dict.fromkeys((LOG_TIME, LOG_VERSION, *present))])
    missing = {LOG_TIME, LOG_VERSION} - set(table.column_names)
    if missing:
        raise ValueError(f"has no column {', '.join(sorted(missing))}, so it holds no samples")
    wanted = compute.greater_equal(table[LOG_TIME], pa.scalar(since, table[LOG_TIME].type))
    if version is not None:
        wanted = compute.and_(wanted, compute.equal(table[LOG_VERSION], version))
    return table.filter(wanted).select([LOG_TIME, *present])


def _newest_rows(tables: list[pa.Table], max_rows: int) -> pa.Table:
    import pyarrow as pa

    filled = [table for table in tables if table.num_rows]
    if not filled:
        return pa.table({LOG_TIME: pa.array([], pa.timestamp("us", "UTC"))})
    # Files of several writers may differ in width: float in one is double in another.
    table = pa.concat_tables(filled, promote_options="permissive").sort_by(LOG_TIME)
    return table.slice(max(0, table.num_rows - max_rows))


def first_key(entity: str) -> str:
    """Return the part of a logged entity that makes rows dependent: the first of several keys.

    The evaluation is split by it, and rows that share it are alike in all its features,
    regardless of their other keys.
    """
    try:
        keys = json.loads(entity) if entity.startswith("{") else None
    except (ValueError, RecursionError):  # the id of a single key may be any text
        keys = None
    if not isinstance(keys, dict) or not keys:
        return entity
    return json.dumps(next(iter(keys.items())))
