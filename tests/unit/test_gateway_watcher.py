"""The watcher of all models: isolated failures, restores and removals, and an end when asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.records import RecordOrError
from serving_gateway.replication.redis_store import RedisStore
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.replication.watcher import Watcher
from serving_gateway.tasks import TaskSupervisor
from serving_gateway.telemetry.counters import LabelledCounts
from tests.support.waiting import eventually


async def forever() -> None:
    await asyncio.Event().wait()


def record(name: str, generation: int, version: int = 1, **changes: Any) -> RoutingRecord:
    slot = Slot(version, f"run-{version}", "caller", Mode.PINNED)
    found = RoutingRecord(
        name, generation, {"A": slot}, changed_at=f"2026-01-01T00:00:0{generation}Z"
    )
    return msgspec.structs.replace(found, **changes)


class Holder:
    """Routes one model."""

    def __init__(self, record: RoutingRecord) -> None:
        self.record = record
        self.hangs = False

    async def follow(
        self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None
    ) -> None:
        if self.hangs:
            await forever()
        if record.generation > self.record.generation or self.record is instead_of:
            self.record = record


class Models:
    """The models of a replica, without Triton."""

    def __init__(self) -> None:
        self.hosted: dict[str, Holder] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.hosted)

    def record(self, model_name: str) -> RoutingRecord | None:
        holder = self.hosted.get(model_name)
        return None if holder is None else holder.record

    async def host(self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None) -> None:
        if record.reason == "cannot be hosted":
            raise RuntimeError(record.reason)
        holder = self.hosted.setdefault(record.model_name, Holder(record))
        await holder.follow(record, instead_of=instead_of)

    async def unhost(self, model_name: str) -> None:
        self.hosted.pop(model_name, None)

    def generations(self) -> dict[str, int]:
        return {name: holder.record.generation for name, holder in self.hosted.items()}


class CountingStore(FileStore):
    """A file store that counts single reads, announces on demand, and may be down."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.reads: list[str] = []
        self.is_down = False
        self.announce: Callable[[str], None] = lambda _: None
        self.broken_subscriptions, self.is_subscribed = 0, False

    async def read(self, model_name: str) -> RoutingRecord:
        self.reads.append(model_name)
        return await super().read(model_name)

    async def read_all(self, hosted: Collection[str]) -> Mapping[str, RecordOrError]:
        if self.is_down:
            raise StoreUnavailable("the store is down")
        return await super().read_all(hosted)

    async def follow(self, changed: Callable[[str], None]) -> None:
        if self.broken_subscriptions:
            self.broken_subscriptions -= 1
            raise EOFError("closed in the middle of a reply")
        self.announce, self.is_subscribed = changed, True
        await forever()


async def put(store: FileStore, *records: RoutingRecord) -> None:
    for one in records:
        await store.replace(await FileStore.read(store, one.model_name), one)


class World:
    def __init__(self, home: Path) -> None:
        self.store = CountingStore(home / "store")
        self.snapshots = Snapshots(home / "snapshots")
        self.models = Models()
        self.lost = LabelledCounts()
        self.losses = LossReporter(self.lost)
        self.restarted: list[str] = []
        self.watcher = Watcher(self.store, self.snapshots, self.losses, interval=0.02)

    def pending(self) -> str | None:
        return self.watcher.pending


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    """As `main` runs it."""
    tasks = TaskSupervisor(world.restarted.append)
    tasks.start("watcher", lambda: world.watcher.run(world.models))
    tasks.start("subscription", world.watcher.listen)
    tasks.start("snapshots", world.watcher.keep_snapshots)
    try:
        yield
    finally:
        await tasks.aclose()


async def test_a_start_reads_all_records_in_bulk(world: World) -> None:
    await put(world.store, *(record(f"m{number}", 1) for number in range(50)))
    assert world.pending()
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        assert not world.pending()
        assert len(world.models.hosted) == 50
    assert world.store.reads == []


async def test_one_model_that_hangs_or_fails_does_not_hold_up_the_others(world: World) -> None:
    await put(world.store, record("good", 1), record("stuck", 1))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        world.models.hosted["stuck"].hangs = True
        await put(world.store, record("stuck", 2), record("broken", 1, reason="cannot be hosted"))
        await put(world.store, record("good", 2), record("new", 1))
        await eventually(
            lambda: world.models.generations() == {"good": 2, "stuck": 1, "new": 1}, "others go on"
        )
        await put(world.store, record("good", 3))
        await eventually(lambda: world.models.generations()["good"] == 3, "and go on")


async def test_an_announcement_is_followed_without_waiting_for_the_interval(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.watcher = Watcher(world.store, world.snapshots, world.losses, interval=60)
    await put(world.store, record("m", 1))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        await put(world.store, record("m", 2))
        for _ in range(20):
            world.store.announce("m")
        await eventually(lambda: world.models.generations() == {"m": 2}, "it is followed")
    assert len(world.store.reads) < 5, "announcements of one model are coalesced"


async def test_a_subscription_that_fails_is_begun_again_and_stops_nothing_else(
    world: World,
) -> None:
    world.store.broken_subscriptions = 2
    await put(world.store, record("m", 1))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        await put(world.store, record("m", 2))
        await eventually(lambda: world.models.generations() == {"m": 2}, "the store is followed")
        await eventually(lambda: world.store.is_subscribed, "announcements are heard again")
    assert world.restarted == ["subscription"] * 2


async def test_a_corrupt_record_is_its_own_models_trouble(world: World) -> None:
    await put(world.store, record("good", 1), record("bad", 3))
    await world.snapshots.keep(record("bad", 2))
    world.store.path("bad").write_text("{")
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        assert world.watcher.problem("good") is None
        assert "corrupt" in (world.watcher.problem("bad") or "")
        assert world.models.generations() == {"good": 1, "bad": 2}, "from its snapshot"
        world.store.path("bad").unlink()
        await put(world.store, record("bad", 3))
        await eventually(lambda: world.models.generations()["bad"] == 3, "it heals")
        assert world.watcher.problem("bad") is None


async def test_malformed_ancestors_are_reported_once_and_in_one_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await put(world.store, record("bad", 2))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        written = msgspec.json.encode(record("bad", 3, ancestors=("x",)))
        world.store.path("bad").write_bytes(written)
        await eventually(lambda: caplog.records, "it is reported")
        await asyncio.sleep(0.1)
        assert world.models.generations() == {"bad": 2}, "what is known is served"
    (line,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert line.exc_info is None
    assert "move it away" in vars(line)["reason"]


async def test_without_the_store_models_come_from_snapshots(world: World) -> None:
    await world.snapshots.keep(record("m", 2))
    world.store.is_down = True
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        assert world.models.generations() == {"m": 2}
        assert world.watcher.problem("m") == "the store is down"
        world.store.is_down = False
        await eventually(lambda: world.watcher.problem("m") is None, "it is back")


async def test_without_the_store_and_snapshots_the_replica_stays_pending(world: World) -> None:
    world.store.is_down = True
    async with running(world):
        await eventually(lambda: world.watcher.problem("m"), "the problem is seen")
        pending = world.watcher.pending or ""
        assert "what is in production is not known here" in pending
        assert "there is no snapshot to resume from. the store is down" in pending
        assert world.models.generations() == {}
        await put(world.store, record("m", 3))
        world.store.is_down = False
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        assert world.watcher.pending is None
        assert world.models.generations() == {"m": 3}


async def test_a_store_that_lost_everything_while_no_replica_was_up_gets_it_back(
    world: World,
) -> None:
    await world.snapshots.keep(record("m", 7))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        await eventually(lambda: world.models.generations() == {"m": 7}, "it is hosted")
    assert await world.store.read("m") == record("m", 7)
    assert world.lost.labels("restored").value == 1


async def test_a_snapshot_never_overrides_a_record_of_the_store_and_is_reported(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.snapshots.keep(record("m", 7))
    await put(world.store, record("m", 2))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        assert world.models.generations() == {"m": 2}
    assert world.lost.labels("dropped").value == 1
    assert "an accepted change was dropped" in caplog.text


async def test_a_replica_that_was_down_does_not_bring_a_removed_model_back(world: World) -> None:
    await world.snapshots.keep(record("m", 2))
    await put(world.store, record("m", 3, variants={}, removed=True))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        assert world.models.generations() == {}
        await eventually(lambda: not world.snapshots.path("m").exists(), "its snapshot goes")
    assert (await world.store.read("m")).removed


async def test_a_removal_reaches_a_replica_and_its_snapshot(world: World) -> None:
    await put(world.store, record("m", 2))
    async with running(world):
        await asyncio.wait_for(world.watcher.first_pass(), 5)
        world.watcher.keep(world.models.hosted["m"].record)
        await eventually(lambda: world.snapshots.path("m").exists(), "a snapshot is kept")
        await put(world.store, record("m", 3, variants={}, removed=True))
        await eventually(lambda: not world.models.hosted, "it is hosted no more")
    # A replica that started from a snapshot while the store was down learns of it later too.
    world.models.hosted["m"] = Holder(record("m", 2))
    await world.watcher.look(world.models)
    assert not world.models.hosted
    assert (await world.store.read("m")).removed


async def test_a_cancellation_that_the_store_swallowed_ends_the_watcher(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def swallow(_: Collection[str]) -> Mapping[str, RecordOrError]:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        raise StoreUnavailable("the connection was closed")

    monkeypatch.setattr(world.store, "read_all", swallow)
    task = asyncio.create_task(world.watcher.run(world.models))
    await asked.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done == {task}


async def test_a_subscription_that_swallowed_a_cancellation_ends_too() -> None:
    listening = asyncio.Event()

    async def listen(_: Callable[[str], None]) -> None:
        listening.set()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()

    store: Any = object.__new__(RedisStore)
    store._connection = SimpleNamespace(pause_seconds=0, failures=(EOFError,))
    store._listen = listen
    task = asyncio.create_task(store.follow(lambda _: None))
    await listening.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done == {task}
