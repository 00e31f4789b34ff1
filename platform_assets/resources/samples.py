"""The samples that gateways write of what they answered: Parquet files below one folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dagster as dg
from pydantic import Field

from serving_gateway.contract import check_model_name

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_TIME: Final = "sample_time"
"""When the request was answered; timestamp in microseconds, UTC."""
SAMPLE_VERSION: Final = "sample_version"
SAMPLE_PREDICTION: Final = "sample_prediction"
"""The answer as text; null for a regression."""
SAMPLE_SCORE: Final = "sample_score"
"""Largest probability of a classifier, or the value that a regression answered; float64."""
SAMPLE_ENTITY: Final = "sample_entity"
"""Whose row it is, as text; of several keys a JSON object in their order. Null where the request
named no entity. Older files have none."""

# What pyarrow raises for files that are broken or of another make.
_UNREADABLE: Final = (OSError, ValueError, TypeError, NotImplementedError)


class SamplesError(Exception):
    """The files cannot be read as the samples of one model; the message says why."""


@dataclass(frozen=True)
class Samples:
    """The newest samples of one version inside a window.

    `table` has the columns that were asked for and that any file holds, newest row last.
    `unreadable` names the files that are not whole Parquet files, each with the reason.
    """

    table: pa.Table
    files: int
    unreadable: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.table.num_rows)


class SamplesFolder(dg.ConfigurableResource[None]):
    """Samples are in `<root>/<model_name>/`, by day; gateways write and rotate them."""

    root: str = Field(description="Folder below which every model has a folder of samples.")

    def folder(self, model_name: str) -> Path:
        """Folder of a model's samples, whether it is there or not."""
        return Path(self.root).expanduser().absolute() / check_model_name(model_name)

    def window(
        self,
        model_name: str,
        version: int,
        *,
        since: datetime,
        max_rows: int,
        columns: Sequence[str],
    ) -> Samples:
        """Read the newest `max_rows` samples of a version that are not older than `since`.

        `columns` are wanted beside `sample_time`; those that a file lacks are null there. Files
        that vanish meanwhile were rotated away: they count as if they never were there.

        Raises:
            SamplesError: the folder cannot be read, or files differ in the type of a column.
        """
        tables: list[pa.Table] = []
        unreadable: list[str] = []
        try:
            for path in _newest_first(self.folder(model_name)):
                if sum(table.num_rows for table in tables) >= max_rows:
                    break
                try:
                    tables.append(_read(path, version, since, columns))
                except FileNotFoundError:
                    continue
                except _UNREADABLE as error:
                    unreadable.append(f"{path.name}: {error}")
            newest = _newest_rows(tables, max_rows)
        except _UNREADABLE as error:
            raise SamplesError(
                f"the samples in {self.folder(model_name)} cannot be read as one table: {error}"
            ) from error
        return Samples(newest, len(tables), tuple(unreadable))


def _newest_first(folder: Path) -> list[Path]:
    dated: list[tuple[int, str, Path]] = []
    # By day, as the prediction log has them, or side by side, as older gateways wrote them.
    for path in (*folder.glob("*.parquet"), *folder.glob("date=*/*.parquet")):
        with suppress(FileNotFoundError):
            dated.append((path.stat().st_mtime_ns, path.name, path))
    return [path for _, _, path in sorted(dated, reverse=True)]


def _read(path: Path, version: int, since: datetime, columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import compute, parquet

    # One handle for all of it: a file that is rotated away now can still be read to its end.
    with path.open("rb") as handle:
        file = parquet.ParquetFile(handle)
        present = [name for name in columns if name in file.schema_arrow.names]
        table = file.read(columns=[SAMPLE_TIME, SAMPLE_VERSION, *present])
    missing = {SAMPLE_TIME, SAMPLE_VERSION} - set(table.column_names)
    if missing:
        raise ValueError(f"has no column {', '.join(sorted(missing))}, so it holds no samples")
    recent = compute.greater_equal(table[SAMPLE_TIME], pa.scalar(since, table[SAMPLE_TIME].type))
    wanted = table.filter(compute.and_(recent, compute.equal(table[SAMPLE_VERSION], version)))
    return wanted.select([SAMPLE_TIME, *present])


def _newest_rows(tables: list[pa.Table], max_rows: int) -> pa.Table:
    import pyarrow as pa

    filled = [table for table in tables if table.num_rows]
    if not filled:
        return pa.table({SAMPLE_TIME: pa.array([], pa.timestamp("us", "UTC"))})
    # Files of several writers may differ in width: what one calls a float another calls a double.
    table = pa.concat_tables(filled, promote_options="permissive").sort_by(SAMPLE_TIME)
    return table.slice(max(0, table.num_rows - max_rows))
