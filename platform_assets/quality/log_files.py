"""Find the files with the prediction log and the outcomes of a period."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from platform_assets.resources.merged_files import current_files
from serving_gateway.contract import (
    LOG_DAY,
    OUTCOMES_FOLDER,
    UNREADABLE_SUFFIX,
    check_model_name,
)

SOURCE_FILE: Final = "source.parquet"
"""Name of the copy of a source's outcomes, inside the model's folder of outcomes."""
_CLOCKS_DIFFER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The files of one model below `root`, in the layout of the gateways."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        """The model's folder, which may not exist."""
        return self.root.expanduser().absolute() / check_model_name(self.model)

    @property
    def source_outcomes(self) -> Path:
        """Path of the copied outcomes of the model's source, which may not exist."""
        return self.folder / OUTCOMES_FOLDER / SOURCE_FILE

    def predictions(self, since: datetime | None, until: datetime) -> list[str]:
        """Return the files with predictions of a period; without a start if `since` is None."""
        return [*_files(self.folder, since, until)]

    def outcomes(self, since: datetime) -> list[str]:
        """Return the files with outcomes that clients sent for predictions from `since` on."""
        first = since - _CLOCKS_DIFFER
        return [*_files(self.folder / OUTCOMES_FOLDER, first, None)]

    def set_aside(self, since: datetime, until: datetime) -> int:
        """Count the unusable files with predictions or outcomes of a period."""
        days = [
            *_days(self.folder, since, until),
            *_days(self.folder / OUTCOMES_FOLDER, since, until),
        ]
        return sum(len([*day.glob(f"*{UNREADABLE_SUFFIX}")]) for day in days)


def _files(folder: Path, since: datetime | None, until: datetime | None) -> Iterator[str]:
    for day in _days(folder, since, until):
        yield from map(str, current_files(day))


def _days(folder: Path, since: datetime | None, until: datetime | None) -> Iterator[Path]:
    first = since.astimezone(UTC).date() if since else date.min
    last = until.astimezone(UTC).date() if until else date.max
    for day in sorted(folder.glob(f"{LOG_DAY}*")):
        try:
            at = date.fromisoformat(day.name.removeprefix(LOG_DAY))
        except ValueError:
            continue
        if first <= at <= last:
            yield day
