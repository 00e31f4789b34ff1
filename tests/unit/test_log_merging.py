"""Merging small files of the prediction log: each row counts once, at any moment."""

from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_assets.prediction_log import merging
from platform_assets.prediction_log.erasure import erase
from platform_assets.prediction_log.merging import MergedLog, merge_ended_days
from platform_assets.prediction_log.subjects import entity_subject
from platform_assets.quality.log_files import LogFiles
from platform_assets.resources import merged_files
from platform_assets.resources.merged_files import current_files
from platform_assets.resources.samples import SamplesFolder
from serving_gateway.contract import LOG_ID, LOG_SCHEMA, LOG_SCHEMA_KEY
from serving_gateway.telemetry.log_files import delete_oldest
from tests.support.prediction_log import BEGIN, LOG, Logged, hostile_folder, write_log

MODEL = "m"
DAY = BEGIN.date()
TOMORROW = DAY + timedelta(days=1)


def fill(root: Path, files: int = 6, rows: int = 5, first: int = 0, day: datetime = BEGIN) -> Path:
    """Write files of a day, the oldest one first, and return their folder."""
    for file in range(first, first + files):
        found = [
            Logged(id=f"p-{file}-{row}", at=day, entity=f"e{row}", version=3) for row in range(rows)
        ]
        write_log(root, MODEL, found, f"gw-{file:03d}")
        path = root / MODEL / f"date={day.date()}" / f"gw-{file:03d}.parquet"
        os.utime(path, (1e9 + file, 1e9 + file))
    return root / MODEL / f"date={day.date()}"


def ids(day: Path) -> Counter[str]:
    """The predictions that a reader finds now, and how often."""
    while True:
        try:
            # Each is opened once, as what is open stays as it was while its file is replaced.
            tables = [pq.ParquetFile(one).read() for one in current_files(day)]
        except FileNotFoundError:
            continue  # merged meanwhile
        return Counter(name for table in tables for name in table[LOG_ID].to_pylist())


def once(*names: str) -> Counter[str]:
    return Counter(dict.fromkeys(names, 1))


def all_of(files: range, rows: int = 5) -> Counter[str]:
    return once(*(f"p-{file}-{row}" for file in files for row in range(rows)))


def test_files_of_an_ended_day_become_one_and_those_of_today_stay(tmp_path: Path) -> None:
    day, today = fill(tmp_path), fill(tmp_path, day=BEGIN + timedelta(days=1))
    for path in day.glob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.replace_schema_metadata({LOG_SCHEMA_KEY: str(LOG_SCHEMA)}), path)
        os.utime(path, (1e9, 1e9 + int(path.stem[-3:])))
    path.chmod(0o640)
    (day / "gw-000.parquet").chmod(0o640)
    assert merge_ended_days(tmp_path / MODEL, TOMORROW) == MergedLog(6, 1)
    [merged] = day.glob("*.parquet")
    assert ids(day) == all_of(range(6))
    assert len([*today.glob("*.parquet")]) == 6
    assert merged.stat().st_mtime == 1e9 + 5, "that of its newest rows"
    assert merged.stat().st_mode & 0o777 == 0o640
    assert pq.read_schema(merged).metadata[LOG_SCHEMA_KEY.encode()] == b"1"
    assert pq.read_schema(merged).remove_metadata() == LOG
    assert merge_ended_days(tmp_path / MODEL, TOMORROW) == MergedLog(0, 0)


def test_what_is_not_of_the_log_is_neither_read_nor_moved(tmp_path: Path) -> None:
    day, elsewhere = fill(tmp_path), tmp_path / "elsewhere"
    fill(elsewhere)
    others = elsewhere / MODEL / f"date={DAY}"
    (others / "other.parquet").touch()
    hostile_folder(day.parent, others)
    (day.parent / "date=someday").mkdir()
    (day / "link.parquet").symlink_to(others / "gw-000.parquet")
    assert merge_ended_days(day.parent, TOMORROW) == MergedLog(6, 1)
    assert len([*others.glob("gw-*.parquet")]) == 6
    assert (day / "link.parquet").is_symlink()


def test_files_that_come_late_are_merged_by_the_next_one(tmp_path: Path) -> None:
    day = fill(tmp_path)
    merge_ended_days(tmp_path / MODEL, TOMORROW)
    fill(tmp_path, files=2, first=6)
    assert merge_ended_days(tmp_path / MODEL, TOMORROW) == MergedLog(3, 1)
    assert len([*day.glob("*.parquet")]) == 1
    assert ids(day) == all_of(range(8))


def test_files_of_other_columns_large_and_broken_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = fill(tmp_path)
    (day / "broken.parquet").write_bytes(b"PAR1 and no end")
    whole = (day / "gw-000.parquet").read_bytes()
    (day / "holes.parquet").write_bytes(whole[:4] + bytes(200) + whole[204:])
    pq.write_table(pa.table({LOG_ID: ["other"]}), day / "other.parquet")
    big = pa.table(
        {name: pa.nulls(20_000, kind) for name, kind in zip(LOG.names, LOG.types, strict=True)}
    )
    big = big.set_column(0, LOG_ID, pa.array([f"big-{row}" for row in range(20_000)]))
    pq.write_table(big, day / "big.parquet")
    monkeypatch.setattr(merging, "_LARGE_BYTES", 50_000)
    assert merge_ended_days(tmp_path / MODEL, TOMORROW) == MergedLog(6, 1)
    names = {one.name for one in day.glob("*.parquet")}
    assert {"broken.parquet", "holes.parquet", "other.parquet", "big.parquet"} < names
    assert len(names) == 5


def test_no_file_grows_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = fill(tmp_path)
    size = max(one.stat().st_size for one in day.iterdir())
    monkeypatch.setattr(merging, "_MOST_BYTES", 3 * size)
    assert merge_ended_days(tmp_path / MODEL, TOMORROW) == MergedLog(6, 2)
    assert ids(day) == all_of(range(6))


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", ["before the rename", "after the rename", "at the third file"])
def test_a_merge_that_is_killed_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    day, deleted, real_unlink = fill(tmp_path), Counter[str](), Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        deleted["files"] += path.suffix == ".parquet"
        if path.suffix == ".parquet" and deleted["files"] == (1 if at == "after the rename" else 3):
            raise Killed
        real_unlink(path, missing_ok=True)

    def replace(staged: Path, path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if at == "before the rename":
            patched.setattr(Path, "replace", replace)
        else:
            patched.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            merge_ended_days(tmp_path / MODEL, TOMORROW)
    assert ids(day) == all_of(range(6))
    logged = LogFiles(tmp_path, MODEL).predictions(None, BEGIN)
    assert sum(pq.read_metadata(one).num_rows for one in logged) == 30
    window = SamplesFolder(root=str(tmp_path)).window(
        MODEL, 3, since=BEGIN, max_rows=1_000, columns=[LOG_ID]
    )
    assert window.rows == 30
    merge_ended_days(tmp_path / MODEL, TOMORROW)
    assert ids(day) == all_of(range(6))
    assert len([*day.iterdir()]) == 1, "what was left is deleted"


def test_an_entity_is_erased_from_files_that_a_killed_merge_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = fill(tmp_path)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            merge_ended_days(tmp_path / MODEL, TOMORROW)
    found = erase(tmp_path / MODEL, entity_subject("e2"))
    assert found.rows == 6, "each once"
    assert ids(day) == all_of(range(6)) - once(*(f"p-{file}-2" for file in range(6)))
    assert len([*day.glob("*.parquet")]) == 1


def test_a_reader_whose_list_is_older_than_a_merge_reads_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    listing, seen = merged_files.current_files, list[int]()

    def merge_after(folder: Path) -> list[Path]:
        found = listing(folder)
        if len(found) > 1:
            seen.append(len(found))
            merge_ended_days(tmp_path / MODEL, TOMORROW)
        return found

    monkeypatch.setattr("platform_assets.resources.samples.current_files", merge_after)
    window = SamplesFolder(root=str(tmp_path)).window(
        MODEL, 3, since=BEGIN, max_rows=1_000, columns=[LOG_ID]
    )
    assert seen == [6]
    assert window.rows == 30


def test_a_list_that_was_made_during_a_merge_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lack what is renamed or deleted meanwhile: the new file and the old ones."""
    day, real, calls = fill(tmp_path), Path.glob, list[str]()

    def glob(path: Path, pattern: str) -> list[Path]:
        calls.append(pattern)
        if len(calls) == 1:
            merge_ended_days(tmp_path / MODEL, TOMORROW)
            return []
        return [*real(path, pattern)]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", glob)
        [merged] = current_files(day)
    assert pq.read_metadata(merged).num_rows == 30


def test_merging_while_gateways_write_and_an_entity_is_erased_keeps_each_row_once(
    tmp_path: Path,
) -> None:
    """Three threads: a gateway that writes late rows, erasures, and merges; readers all along."""
    day, errors, end = fill(tmp_path, files=4), list[BaseException](), threading.Event()
    written = [4]

    def work(step: Any) -> None:
        try:
            while not end.is_set():
                step()
        except BaseException as error:
            errors.append(error)
            raise

    def write() -> None:
        number = written[0]
        found = [Logged(id=f"p-{number}-{row}", entity=f"e{row}") for row in range(5)]
        staged = tmp_path / "staged"
        write_log(staged, MODEL, found, "one")
        [path] = (staged / MODEL / day.name).iterdir()
        path.rename(day / f"gw-{number:03d}.parquet")
        written[0] += 1

    def merge() -> None:
        merge_ended_days(tmp_path / MODEL, TOMORROW)

    def forget() -> None:
        erase(tmp_path / MODEL, entity_subject("e2"))

    threads = [threading.Thread(target=work, args=(step,)) for step in (write, merge, forget)]
    for thread in threads:
        thread.start()
    try:
        while written[0] < 60 and not errors:
            before = written[0]
            found = ids(day)
            kept = all_of(range(before)) - once(*(f"p-{file}-2" for file in range(before)))
            assert set(found.values()) == {1}
            assert not kept - found
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert not errors
    forget()
    merge()
    last = written[0]
    assert ids(day) == all_of(range(last)) - once(*(f"p-{file}-2" for file in range(last)))
    assert len([*day.glob("*.parquet")]) == 1


def test_merged_files_go_with_the_oldest(tmp_path: Path) -> None:
    day = fill(tmp_path)
    merge_ended_days(tmp_path / MODEL, TOMORROW)
    newest = fill(tmp_path, files=1, day=BEGIN + timedelta(days=1)) / "gw-000.parquet"
    delete_oldest(tmp_path / MODEL, 1, date(2020, 1, 1), keep=newest)
    assert not day.exists()
    assert newest.exists()
