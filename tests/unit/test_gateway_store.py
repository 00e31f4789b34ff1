"""The file that holds the routing record: shared, atomic, and not believed blindly."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication import file_store as store_module
from serving_gateway.replication.file_store import FileStore

NOTHING = RoutingRecord(model_name="m")
RECORD = RoutingRecord(
    model_name="m",
    generation=1,
    variants={"A": Slot(3, "run", "registry", Mode.SSOT)},
)


def at(generation: int) -> RoutingRecord:
    return msgspec.structs.replace(RECORD, generation=generation)


async def test_what_was_written_is_read_by_others(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "deep" / "down")
    assert await store.read("m") == NOTHING
    await store.replace(NOTHING, RECORD)
    assert await store.read("m") == RECORD
    assert await FileStore(tmp_path / "deep" / "down").read("m") == RECORD


async def test_records_of_the_releases_before_and_after_are_read(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.path("m").write_bytes(b'{"schema":1,"model_name":"m","generation":4}')
    assert await store.read("m") == RoutingRecord(model_name="m", generation=4)
    store.path("m").write_bytes(b'{"schema":1,"model_name":"m","generation":15,"unheard_of":[1]}')
    assert await store.read("m") == RoutingRecord(model_name="m", generation=15)


async def test_a_write_on_an_old_generation_is_refused(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.replace(NOTHING, RECORD)
    other = msgspec.structs.replace(RECORD, reason="another change of that number")
    for expected in (NOTHING, at(2), other):
        with pytest.raises(GenerationConflict):
            await store.replace(expected, at(expected.generation + 1))
    assert await store.read("m") == RECORD


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"schema":2}', b'{"schema":1}', b'{"schema":1,"model_name":"n"}'],
)
async def test_a_strange_record_is_refused_and_never_overwritten(
    tmp_path: Path, content: bytes
) -> None:
    store = FileStore(tmp_path)
    store.path("m").write_bytes(content)
    with pytest.raises(RecordRefused):
        await store.read("m")
    with pytest.raises(RecordRefused):
        await store.replace(NOTHING, RECORD)
    assert store.path("m").read_bytes() == content


async def test_a_crash_while_writing_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    await store.replace(NOTHING, RECORD)

    def crash(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(StoreUnavailable, match="disk full"):
        await store.replace(RECORD, at(2))
    assert await FileStore(tmp_path).read("m") == RECORD


async def test_a_lock_that_is_not_let_go_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_LOCK_SECONDS", 0.05)
    store = FileStore(tmp_path)
    with (tmp_path / "routing-m.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="held by another process"):
            await store.replace(NOTHING, RECORD)
    await store.replace(NOTHING, RECORD)


async def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FileStore(tmp_path / "file")
    with pytest.raises(StoreUnavailable):
        await store.replace(NOTHING, RECORD)
    with pytest.raises(StoreUnavailable):
        await store.read("m")


async def _write(directory: Path, times: int) -> None:
    store = FileStore(directory)
    done = 0
    while done < times:
        stored = await store.read("m")
        try:
            await store.replace(stored, at(stored.generation + 1))
        except GenerationConflict:
            continue
        done += 1


def _count_up(directory: Path, times: int) -> None:
    asyncio.run(_write(directory, times))


async def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_count_up, args=(tmp_path, 25)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert (await FileStore(tmp_path).read("m")).generation == 75


async def test_all_records_are_read_in_bulk_and_again_only_when_they_changed(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path)
    assert await store.read_all(["m"]) == {"m": NOTHING}
    await store.replace(NOTHING, RECORD)
    (tmp_path / "routing-bad.json").write_text("{")
    (tmp_path / "routing-1wrong.json").write_text("{")
    first = await store.read_all(["n"])
    assert first["m"] == RECORD
    assert first["n"] == RoutingRecord(model_name="n")
    assert isinstance(first["bad"], RecordRefused)
    assert set(first) == {"m", "n", "bad"}
    again = await store.read_all(["n"])
    assert all(again[name] is first[name] for name in ("m", "bad"))
    await store.replace(RECORD, at(2))
    store.path("bad").unlink()
    last = await store.read_all(())
    assert last == {"m": at(2)}
