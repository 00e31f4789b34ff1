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
"""Copy of the outcomes of a model's source, inside its folder of outcomes."""
_CLOCKS_DIFFER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The files of one model below `root`, as the gateways arrange them."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        """The model's folder, whether it is there or not."""
        return self.root.expanduser().absolute() / check_model_name(self.model)

    @property
    def source_outcomes(self) -> Path:
        """Where the outcomes of a model's source are, once they were read."""
        return self.folder / OUTCOMES_FOLDER / SOURCE_FILE

    def predictions(self, since: datetime | None, until: datetime) -> list[str]:
        """Files with predictions of a time; of any time before its end where `since` is None."""
        return [*_files(self.folder, since, until)]

    def outcomes(self, since: datetime) -> list[str]:
        """Files with outcomes that clients sent for predictions from `since` on."""
        first = since - _CLOCKS_DIFFER
        return [*_files(self.folder / OUTCOMES_FOLDER, first, None)]

    def set_aside(self, since: datetime, until: datetime) -> int:
        """How many files with predictions or outcomes of a time could not be used."""
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
