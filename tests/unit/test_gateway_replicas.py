"""Who counts as live, and when all are in sync."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from serving_gateway.contract import ReplicaStatus
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.replicas import live, replica_list
from serving_gateway.replication.store import FileStore


def replica(name: str, generation: int = 3, *, ready: bool = True) -> ReplicaStatus:
    return ReplicaStatus(name, "host", 1, "2026-01-01T00:00:00.000Z", generation, ready, ())


@pytest.mark.parametrize(
    ("own", "others", "stored", "in_sync"),
    [
        (3, (), 3, True),
        (0, (), 0, True),
        (3, (3, 3), 3, True),
        (3, (2,), 3, False),
        (2, (3,), 2, False),
        (3, (3,), 4, False),
    ],
)
def test_all_are_in_sync_when_none_is_behind_the_newest_generation(
    own: int, others: tuple[int, ...], stored: int, in_sync: bool
) -> None:
    found = [live(replica(f"b{number}", g), 0.1) for number, g in enumerate(others)]
    assert replica_list(replica("a", own), found, stored).in_sync is in_sync


def test_a_replica_knows_itself_better_than_the_store_does() -> None:
    found = replica_list(
        replica("a", 4), [live(replica("a", 3), 0.4), live(replica("b", 4), 0.2)], 4
    )
    assert found.in_sync
    ours, theirs = found.replicas
    assert (ours.id, ours.generation, ours.age_seconds) == ("a", 4, 0.0)
    assert (theirs.id, theirs.age_seconds) == ("b", 0.2)


async def test_a_replica_is_listed_until_it_leaves_or_tells_nothing_more(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "m")
    assert await store.replicas(5) == []
    await store.beat(replica("a"), 5)
    await store.beat(replica("b"), 5)
    await store.beat(replica("a", 4, ready=False), 5)
    found = {r.id: (r.generation, r.ready) for r in await FileStore(tmp_path, "m").replicas(5)}
    assert found == {"a": (4, False), "b": (3, True)}
    await store.leave("a")
    await store.leave("a")
    path = tmp_path / "replicas" / "m" / "b.json"
    past = time.time() - 4
    os.utime(path, (past, past))
    (seen,) = await store.replicas(5)
    assert 4 <= seen.age_seconds < 5
    assert await store.replicas(3) == []
    assert not path.exists()


async def test_a_replica_that_cannot_be_read_is_not_left_out_in_silence(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "m")
    await store.beat(replica("a"), 5)
    (tmp_path / "replicas" / "m" / "b.json").write_text("{}")
    with pytest.raises(StoreUnavailable, match=r"b\.json"):
        await store.replicas(5)


async def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "replicas").write_text("")
    with pytest.raises(StoreUnavailable):
        await FileStore(tmp_path, "m").beat(replica("a"), 5)


async def test_a_beat_that_comes_after_the_end_is_none(tmp_path: Path) -> None:
    store = FileStore(tmp_path, "m")
    await store.beat(replica("a"), 5)
    await store.leave("a")
    # One that was cancelled goes on in its thread.
    await store.beat(replica("a"), 5)
    assert await store.replicas(5) == []
    assert not (tmp_path / "replicas" / "m").exists()
