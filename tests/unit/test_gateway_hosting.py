"""Opening models: side by side, within the limit, and kept only with a record."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import Conflict, GatewayError, NotFound, VariantUnavailable
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.replication.watcher import Watcher
from serving_gateway.telemetry.counters import LabelledCounts


def record(name: str, generation: int = 1) -> RoutingRecord:
    return RoutingRecord(name, generation, {"A": Slot(1, "run", "caller", Mode.PINNED)})


class FakeRouter:
    def __init__(self, name: str) -> None:
        self.record = RoutingRecord(name)
        self.reasons: tuple[str, ...] = ()

    async def follow(self, record: RoutingRecord, **_: Any) -> None:
        if record.reason == "cannot be hosted":
            raise RuntimeError(record.reason)
        self.record = record

    def still_served(self) -> dict[str, int]:
        return {alias: slot.version for alias, slot in self.record.variants.items()}

    def unready_reasons(self) -> tuple[str, ...]:
        return self.reasons


class Harness:
    def __init__(self, home: Path, limit: int = 3) -> None:
        self.forgotten: list[str] = []
        self.pending: str | None = None
        self.lifecycle = Lifecycle()
        self.closed: list[str] = []
        self.store = FileStore(home)
        self.hosting = Hosting(
            "default",
            self.build,
            self.store,
            self.lifecycle,
            pending=lambda: self.pending,
            forget=self.forgotten.append,
            limit=limit,
        )

    def names(self) -> tuple[str, ...]:
        return self.hosting.names

    def build(self, name: str) -> Any:
        mirror = SimpleNamespace(close=lambda: self.closed.append(name))
        return SimpleNamespace(model_name=name, router=FakeRouter(name), mirror=mirror)

    async def open(
        self, name: str, *, work: Any = None, record: RoutingRecord | None = None
    ) -> None:
        async with self.hosting.open_model(name) as model:
            if work is not None:
                await work
            if record is not None:
                await model.router.follow(record)


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


async def test_first_reloads_of_different_models_run_side_by_side(harness: Harness) -> None:
    slow = asyncio.Event()
    opening = asyncio.create_task(harness.open("slow", work=slow.wait(), record=record("slow")))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await harness.open("fast", record=record("fast"))
    assert harness.names() == ("default", "fast")
    # The slow one's record, announced by its own commit, does not host it a second time.
    await harness.hosting.host(record("slow"))
    assert harness.names() == ("default", "fast")
    slow.set()
    await opening
    assert harness.names() == ("default", "fast", "slow")


async def test_first_reloads_of_one_model_run_one_after_the_other(harness: Harness) -> None:
    first = asyncio.Event()
    one = asyncio.create_task(harness.open("new", work=first.wait(), record=record("new")))
    await asyncio.sleep(0)
    two = asyncio.create_task(harness.open("new"))
    await asyncio.sleep(0.05)
    assert not two.done()
    first.set()
    await asyncio.gather(one, two)
    assert harness.names() == ("default", "new")
    assert harness.forgotten == []


async def test_reloads_under_way_count_towards_the_limit(harness: Harness) -> None:
    held = asyncio.Event()
    tasks = [
        asyncio.create_task(harness.open(name, work=held.wait(), record=record(name)))
        for name in ("one", "two")
    ]
    await asyncio.sleep(0.05)
    with pytest.raises(Conflict) as caught:
        await harness.open("three")
    assert caught.value.code == "too_many_models"
    await harness.hosting.host(record("four"))
    with pytest.raises(VariantUnavailable, match="does not host 'four' yet"):
        harness.hosting.find("four")
    held.set()
    await asyncio.gather(*tasks)


async def test_a_refused_first_reload_hosts_nothing(harness: Harness) -> None:
    with pytest.raises(GatewayError):
        async with harness.hosting.open_model("new"):
            raise GatewayError("refused")
    assert harness.forgotten == ["new"]
    with pytest.raises(NotFound):
        harness.hosting.find("new")
    # Neither does one of a model that was removed.
    gone = msgspec.structs.replace(record("gone", 4), variants={}, removed=True)
    await harness.store.replace(RoutingRecord("gone"), gone)
    await harness.open("gone")
    assert harness.names() == ("default",)


async def test_a_model_that_cannot_be_hosted_leaves_room_for_others(harness: Harness) -> None:
    bad = msgspec.structs.replace(record("bad"), reason="cannot be hosted")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="cannot be hosted"):
            await harness.hosting.host(bad)
    await asyncio.gather(*(harness.hosting.host(record(name)) for name in ("one", "two")))
    assert harness.names() == ("default", "one", "two")


async def test_a_removed_model_is_closed_and_forgotten_and_the_default_one_stays(
    harness: Harness,
) -> None:
    await harness.hosting.host(record("one"))
    await harness.hosting.unhost("one")
    await harness.hosting.unhost("default")
    assert (harness.closed, harness.forgotten) == (["one"], ["one"])
    assert harness.names() == ("default",)


async def test_removed_model_for_which_there_was_no_room_is_unknown_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path, limit=1)
    snapshots = Snapshots(tmp_path / "snapshots")
    watcher = Watcher(harness.store, snapshots, LossReporter(LabelledCounts()), interval=0.1)
    await harness.store.replace(RoutingRecord("one"), record("one"))
    await watcher.look(harness.hosting)
    with pytest.raises(VariantUnavailable):
        harness.hosting.find("one")
    gone = msgspec.structs.replace(record("one", 2), variants={}, removed=True)
    await harness.store.replace(record("one"), gone)  # its announcement is missed
    await watcher.look(harness.hosting)
    with pytest.raises(NotFound):
        harness.hosting.find("one")


async def test_a_replica_is_ready_once_every_record_was_read_even_if_a_model_is_not(
    harness: Harness,
) -> None:
    harness.pending = "the store is down"
    assert harness.hosting.readiness().reasons == ("the store is down",)
    harness.pending = None
    await harness.hosting.host(record("one"))
    router: Any = harness.hosting.find("one").router
    router.reasons = ("gone",)
    found = harness.hosting.readiness()
    assert (found.status, found.reasons, found.models) == ("ready", (), {"one": ("gone",)})
    harness.lifecycle.draining = True
    found = harness.hosting.readiness()
    assert (found.status, found.reasons) == ("not ready", ("the gateway is shutting down",))
