"""The file that holds the routing record: shared, atomic, and not believed blindly."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication import store as store_module
from serving_gateway.replication.store import FileStore

RECORD = RoutingRecord(
    model_name="m",
    generation=1,
    variants={"A": Slot(3, "run", "registry", Mode.SSOT)},
)


def at(generation: int) -> RoutingRecord:
    return msgspec.structs.replace(RECORD, generation=generation)


async def test_what_was_written_is_read_by_others(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "deep" / "down", "m")
    assert await store.read() == RoutingRecord(model_name="m")
    await store.compare_and_set(0, RECORD)
    assert await store.read() == RECORD
    assert await FileStore(tmp_path / "deep" / "down", "m").read() == RECORD


async def test_records_of_the_releases_before_and_after_are_read(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "m")
    store.path.write_bytes(b'{"schema":1,"model_name":"m","generation":4}')
    assert await store.read() == RoutingRecord(model_name="m", generation=4)
    store.path.write_bytes(b'{"schema":1,"model_name":"m","generation":15,"unheard_of":[1]}')
    assert await store.read() == RoutingRecord(model_name="m", generation=15)


async def test_a_write_on_an_old_generation_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "m")
    await store.compare_and_set(0, RECORD)
    for expected in (0, 2):
        with pytest.raises(GenerationConflict):
            await store.compare_and_set(expected, at(expected + 1))
    assert await store.read() == RECORD


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"schema":2}', b'{"schema":1}', b'{"schema":1,"model_name":"n"}'],
)
async def test_a_strange_record_is_refused_and_never_overwritten(
    tmp_path: Path, content: bytes
) -> None:
    store = FileStore(tmp_path, "m")
    store.path.write_bytes(content)
    with pytest.raises(RecordRefused):
        await store.read()
    with pytest.raises(RecordRefused):
        await store.compare_and_set(0, RECORD)
    assert store.path.read_bytes() == content


async def test_a_crash_while_writing_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path, "m")
    await store.compare_and_set(0, RECORD)

    def crash(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(StoreUnavailable, match="disk full"):
        await store.compare_and_set(1, at(2))
    assert await FileStore(tmp_path, "m").read() == RECORD


async def test_a_lock_that_is_not_let_go_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_LOCK_SECONDS", 0.05)
    store = FileStore(tmp_path, "m")
    with (tmp_path / "routing-m.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="held by another process"):
            await store.compare_and_set(0, RECORD)
    await store.compare_and_set(0, RECORD)


async def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FileStore(tmp_path / "file", "m")
    with pytest.raises(StoreUnavailable):
        await store.compare_and_set(0, RECORD)
    with pytest.raises(StoreUnavailable):
        await store.read()


def _count_up(directory: Path, times: int) -> None:
    store = FileStore(directory, "m")
    done = 0
    while done < times:
        generation = store._read().generation
        try:
            store._compare_and_set(generation, at(generation + 1))
        except GenerationConflict:
            continue
        done += 1


def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_count_up, args=(tmp_path, 25)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert FileStore(tmp_path, "m")._read().generation == 75
