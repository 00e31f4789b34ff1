"""Who counts as live, and when all are in sync."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from serving_gateway.contract import ReplicaIdentity, ReplicaStatus, RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.records import digest
from serving_gateway.replication.replicas import ModelReport, replica_list, with_age


def identity(name: str) -> ReplicaIdentity:
    return ReplicaIdentity(name, "host", 1, "2026-01-01T00:00:00.000Z")


def report(generation: int = 3, *, ready: bool = True) -> ModelReport:
    return ModelReport(generation, None, ready)


def replica(name: str, generation: int = 3, content: str | None = None) -> ReplicaStatus:
    return ReplicaStatus(
        **msgspec.structs.asdict(identity(name)),
        generation=generation,
        ready=True,
        reasons=(),
        digest=content,
    )


def record(generation: int, reason: str | None = None) -> RoutingRecord:
    return RoutingRecord("m", generation, reason=reason)


@pytest.mark.parametrize(
    ("own", "others", "stored", "in_sync"),
    [
        (3, (), 3, True),
        (0, (), 0, True),
        (3, (3, 3), 3, True),
        (3, (2,), 3, False),
        (2, (3,), 2, False),
        (3, (3,), 4, False),
        (3, (3,), 2, False),
    ],
)
def test_all_are_in_sync_when_all_are_at_the_stored_generation(
    own: int, others: tuple[int, ...], stored: int, in_sync: bool
) -> None:
    found = [with_age(replica(f"b{number}", g), 0.1) for number, g in enumerate(others)]
    assert replica_list(replica("a", own), found, record(stored)).in_sync is in_sync


def test_equal_generations_with_different_content_are_not_in_sync() -> None:
    one, other = digest(record(3)), digest(record(3, "other"))
    assert one != other
    for ours, theirs, in_sync in ((one, one, True), (one, other, False), (other, other, False)):
        found = replica_list(
            replica("a", 3, ours), [with_age(replica("b", 3, theirs), 0)], record(3)
        )
        assert found.in_sync is in_sync
    # A release without digests, or with records of another shape, is compared by generation.
    for theirs in (None, "ffffff-123"):
        found = replica_list(
            replica("a", 3, one), [with_age(replica("b", 3, theirs), 0)], record(3)
        )
        assert found.in_sync


def test_a_replica_knows_itself_better_than_the_store_does() -> None:
    found = replica_list(
        replica("a", 4), [with_age(replica("a", 3), 0.4), with_age(replica("b", 4), 0.2)], record(4)
    )
    assert found.in_sync
    ours, theirs = found.replicas
    assert (ours.id, ours.generation, ours.age_seconds) == ("a", 4, 0.0)
    assert (theirs.id, theirs.age_seconds) == ("b", 0.2)


async def test_a_replica_is_listed_until_it_leaves_or_reports_nothing_more(tmp_path: Path) -> None:
    one, two = FileStore(tmp_path), FileStore(tmp_path)
    assert await one.replicas("m", 5) == []
    await one.beat(identity("a"), {"m": report(), "n": report(9)}, 5)
    await two.beat(identity("b"), {"m": report()}, 5)
    await one.beat(identity("a"), {"m": report(4, ready=False), "n": report(9)}, 5)
    found = {r.id: (r.generation, r.ready) for r in await two.replicas("m", 5)}
    assert found == {"a": (4, False), "b": (3, True)}
    by_id = {r.id: r for r in await two.replicas("n", 5)}
    assert (by_id["a"].generation, by_id["b"].generation) == (9, 0)
    assert by_id["b"].reasons == ("this replica does not host the model yet",)
    await one.leave("a")
    await one.leave("a")
    path = tmp_path / "replicas" / "b.json"
    past = time.time() - 4
    os.utime(path, (past, past))
    (seen,) = await two.replicas("m", 5)
    assert 4 <= seen.age_seconds < 5
    await two.beat(identity("b"), {"m": report()}, 5)
    assert (await two.replicas("m", 5))[0].age_seconds < 1, "an unchanged report is a sign of life"
    os.utime(path, (past, past))
    assert await two.replicas("m", 3) == []
    assert not path.exists()


@pytest.mark.parametrize("content", [b"{}", b'{"replica":{"id":"\xff"}}'])
async def test_a_replica_that_cannot_be_read_is_not_left_out_in_silence(
    tmp_path: Path, content: bytes
) -> None:
    store = FileStore(tmp_path)
    await store.beat(identity("a"), {}, 5)
    (tmp_path / "replicas" / "b.json").write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"b\.json"):
        await store.replicas("m", 5)


async def test_a_folder_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "replicas").write_text("")
    with pytest.raises(StoreUnavailable):
        await FileStore(tmp_path).beat(identity("a"), {}, 5)


async def test_a_beat_that_comes_after_the_end_is_none(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.beat(identity("a"), {}, 5)
    await store.leave("a")
    # One that was cancelled goes on in its thread.
    await store.beat(identity("a"), {}, 5)
    assert await store.replicas("m", 5) == []
