"""Prediction logs and outcomes as gateways write them, for tests of what reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import parquet

from serving_gateway.contract import OUTCOMES_FOLDER

BEGIN: Final = datetime(2026, 3, 1, tzinfo=UTC)
_TIME: Final = pa.timestamp("us", tz="UTC")
LOG: Final = pa.schema(
    {
        "sample_id": pa.string(),
        "sample_row": pa.int32(),
        "sample_time": _TIME,
        "sample_entity": pa.string(),
        "sample_version": pa.int64(),
        "sample_prediction": pa.string(),
        "sample_score": pa.float64(),
        "sample_probabilities": pa.list_(pa.float64()),
        "sample_b_version": pa.int64(),
        "sample_b_prediction": pa.string(),
        "sample_b_score": pa.float64(),
    }
)
OUTCOMES: Final = pa.schema(
    {
        "prediction_id": pa.string(),
        "row": pa.int32(),
        "outcome": pa.string(),
        "observed_at": _TIME,
        "received_at": _TIME,
    }
)


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One predicted row."""

    id: str
    at: datetime = BEGIN
    answer: str = "yes"
    row: int = 0
    entity: str | None = None
    version: int = 1
    score: float | None = None
    probabilities: list[float] | None = None
    b_version: int | None = None
    b_answer: str | None = None
    b_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One outcome."""

    id: str
    value: str
    at: datetime
    row: int = 0


def write_log(root: Path, model: str, rows: Iterable[Logged], file: str = "a") -> None:
    """Write predictions, each to a file of its day."""
    columns = [
        (
            one.at,
            (
                *(one.id, one.row, one.at, one.entity, one.version, one.answer, one.score),
                *(one.probabilities, one.b_version, one.b_answer, one.b_score),
            ),
        )
        for one in rows
    ]
    _write(root / model, columns, LOG, file)


def write_outcomes(root: Path, model: str, outcomes: Iterable[Sent], file: str = "a") -> None:
    """Write outcomes, each to a file of the day on which it was received."""
    columns = [(one.at, (one.id, one.row, one.value, None, one.at)) for one in outcomes]
    _write(root / model / OUTCOMES_FOLDER, columns, OUTCOMES, file)


def _write(
    folder: Path, rows: Iterable[tuple[datetime, tuple[Any, ...]]], schema: pa.Schema, file: str
) -> None:
    by_day = groupby(sorted(rows, key=lambda one: one[0].date()), key=lambda one: one[0].date())
    for day, group in by_day:
        found = [row for _, row in group]
        columns: Mapping[str, list[Any]] = {
            name: [row[at] for row in found] for at, name in enumerate(schema.names)
        }
        path = folder / f"date={day.isoformat()}" / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(columns, schema=schema), path)


def hostile_folder(folder: Path, elsewhere: Path) -> None:
    """Put what is no file of the log, older than all, where its files are."""
    old = folder / "date=2020-01-01"
    (old / "folder.parquet").mkdir(parents=True)
    (old / ".folder.staged").mkdir()
    (old / "loop.parquet").symlink_to("loop.parquet")
    (folder / "date=2020-01-02").write_text("a file")
    (folder / "date=2020-01-03").symlink_to(elsewhere)
    for path in (old / "folder.parquet", old / ".folder.staged", elsewhere / "other.parquet"):
        os.utime(path, (1e9, 1e9))
