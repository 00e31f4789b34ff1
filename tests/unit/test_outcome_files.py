"""Files of outcomes: in place when the caller is answered, merged, and bounded."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving_gateway.contract import OUTCOME_COLUMNS, Outcome
from serving_gateway.errors import InvalidInput
from serving_gateway.settings import Settings
from serving_gateway.telemetry.outcome_files import OutcomeFiles
from serving_gateway.telemetry.outcome_writer import (
    OutcomesNotWritten,
    OutcomeWriter,
    as_text,
    to_table,
)
from tests.support.prediction_log import hostile_folder

DAY = 86_400.0


class _Clock:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files are many."""
    monkeypatch.setattr("serving_gateway.telemetry.outcome_files._FAN_IN", 4)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("m/outcomes/date=2026-03-01/*.parquet"))


def _ids(folder: Path) -> list[str]:
    found = [pq.ParquetFile(path).read() for path in _files(folder)]
    return sorted(set(pa.concat_tables(found)["prediction_id"].to_pylist()))


def _open(folder: Path, clock: _Clock, *, max_bytes: int = 1 << 30) -> OutcomeFiles:
    return OutcomeFiles(folder, "r", max_bytes=max_bytes, max_days=30, clock=clock)


def _table(*ids: str) -> pa.Table:
    return to_table([Outcome(one, "yes") for one in ids], 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (7.0, "7"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        ("7.0", "7.0"),
    ],
)
def test_outcome_is_written_as_the_shortest_text(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_small_files_are_merged_and_removed_a_while_later(tmp_path: Path) -> None:
    clock = _Clock()
    files = _open(tmp_path, clock)
    for number in range(4):
        files.write("m", _table(f"p{number:02d}"))
    files.tidy()

    assert len(_files(tmp_path)) == 5, "a reader finds each row, some of them twice"
    clock.now += 61
    files.tidy()
    [merged] = _files(tmp_path)
    assert pq.ParquetFile(merged).metadata.num_rows == 4
    assert _ids(tmp_path) == [f"p{number:02d}" for number in range(4)]


def test_merged_files_are_merged_again(tmp_path: Path) -> None:
    files = _open(tmp_path, _Clock())
    for number in range(4 * 4):
        files.write("m", _table(f"p{number}"))
        files.tidy()
    files.tidy(everything=True)

    [merged] = _files(tmp_path)
    assert pq.ParquetFile(merged).metadata.num_rows == 4 * 4


def test_merge_holds_no_more_rows_than_make_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_two = 2 * _table("p").nbytes
    monkeypatch.setattr("serving_gateway.telemetry.outcome_files._LARGE_BYTES", of_two)
    files = _open(tmp_path, _Clock())
    for number in range(4):
        files.write("m", _table(f"{number}"))
    files.tidy(everything=True)
    [merged] = _files(tmp_path)
    assert pq.ParquetFile(merged).num_row_groups == 2
    assert _ids(tmp_path) == ["0", "1", "2", "3"]


def test_files_are_large_by_what_they_take_in_memory(tmp_path: Path) -> None:
    clock = _Clock()
    files = _open(tmp_path, clock)
    for _ in range(4):
        files.write("m", _table(*["x" * 64] * 20_000))
    files.tidy()
    sizes = [path.stat().st_size for path in _files(tmp_path)]
    assert len(sizes) == 4, "they were not read together"
    assert max(sizes) < 500_000, "by their sizes they would have been"


def test_oldest_files_beyond_the_limit_are_deleted(tmp_path: Path) -> None:
    files = _open(tmp_path, _Clock(), max_bytes=1 << 20)
    folder = tmp_path / "m" / "outcomes" / "date=2026-02-01"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"old{number}.parquet").write_bytes(bytes(400_000))
        at = _Clock.now - DAY - 100 + number
        os.utime(folder / f"old{number}.parquet", (at, at))
    for _ in range(4):
        files.write("m", _table("p"))
    files.tidy(everything=True)

    assert [path.name for path in sorted(folder.iterdir())] == ["old2.parquet", "old3.parquet"]
    assert _ids(tmp_path) == ["p"]


def test_limit_holds_beside_what_is_no_file_of_outcomes(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "other.parquet"
    other.parent.mkdir()
    other.write_text("another program's")
    hostile_folder(tmp_path / "m" / "outcomes", other.parent)
    files = _open(tmp_path, _Clock(), max_bytes=1)
    for _ in range(3):
        files.write("m", _table("p"))
    files.tidy()

    assert len(_files(tmp_path)) == 1
    assert other.exists()


def test_files_go_after_the_days_of_the_log(tmp_path: Path) -> None:
    clock = _Clock()
    files = _open(tmp_path, clock)
    for day in (1, 20):
        folder = tmp_path / "m" / "outcomes" / f"date=2026-02-{day:02d}"
        folder.mkdir(parents=True)
        (folder / "old.parquet").write_bytes(b"old")
        at = datetime(2026, 2, day, tzinfo=UTC).timestamp()
        os.utime(folder / "old.parquet", (at, at))
    clock.now += 4 * DAY
    files.write("m", _table("p"))
    files.tidy()

    days = [path.name for path in sorted((tmp_path / "m" / "outcomes").iterdir())]
    assert days == ["date=2026-02-20", "date=2026-03-05"]


@pytest.fixture
def writer(tmp_path: Path) -> OutcomeWriter:
    return OutcomeWriter(tmp_path / "out", "r", Settings(state_dir=tmp_path))


def _submit(writer: OutcomeWriter, *calls: Sequence[Outcome]) -> list[Future[None]]:
    """What becomes of calls that share a file; the writer has ended."""
    done = [writer.submit("m", call) for call in calls]
    writer.start()
    writer.close()
    return done


def _written(folder: Path) -> list[dict[str, Any]]:
    [path] = (folder / "out").glob("m/outcomes/date=*/*.parquet")
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return rows


def test_many_calls_share_a_file(tmp_path: Path, writer: OutcomeWriter) -> None:
    at = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    done = _submit(writer, [Outcome("a", 1.0)], [Outcome("b", "x", 3, at), Outcome("c", False)])

    assert all(one.result() is None for one in done)
    rows = _written(tmp_path)
    assert tuple(rows[0]) == OUTCOME_COLUMNS
    assert [(one["prediction_id"], one["row"], one["outcome"]) for one in rows] == [
        ("a", 0, "1"),
        ("b", 3, "x"),
        ("c", 0, "false"),
    ]
    assert rows[1]["observed_at"] == at
    assert rows[0]["received_at"] < rows[1]["received_at"] < rows[2]["received_at"]


def test_call_that_no_file_can_hold_is_refused_alone(tmp_path: Path, writer: OutcomeWriter) -> None:
    bad, good = _submit(writer, [Outcome("\ud800", 1)], [Outcome("b", 2)])

    assert isinstance(bad.exception(), InvalidInput)
    assert good.exception() is None
    assert [one["prediction_id"] for one in _written(tmp_path)] == ["b"]


def test_full_disk_refuses_and_keeps_nothing(
    tmp_path: Path, writer: OutcomeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    [done] = _submit(writer, [Outcome("a", 1)])

    error = done.exception()
    assert isinstance(error, OutcomesNotWritten)
    assert (error.status, error.retry_after) == (503, 10)
    assert "full: make room there" in error.message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_folder_that_cannot_be_written_refuses(tmp_path: Path, writer: OutcomeWriter) -> None:
    (tmp_path / "out").write_text("a file")
    [done] = _submit(writer, [Outcome("a", 1)])

    assert "look at the folder" in str(done.exception())
