"""The routing record on a real Redis: compared and set, announced, and given up in time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from serving_gateway.contract import Mode, ReplicaIdentity, RoutingRecord, Slot
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.redis_store import RedisStore
from serving_gateway.replication.replicas import ModelReport
from tests.support.servers import RunningRedis

KEY = "gateway:{m}:routing"
NOTHING = RoutingRecord(model_name="m")
RECORD = RoutingRecord(
    model_name="m",
    generation=1,
    variants={"A": Slot(3, "run", "registry", Mode.SSOT)},
)


def at(generation: int) -> RoutingRecord:
    return msgspec.structs.replace(RECORD, generation=generation)


def store_on(redis: RunningRedis, **options: Any) -> RedisStore:
    return RedisStore(RedisConnection(SecretStr(redis.url), **options))


@pytest.fixture
async def store(redis: RunningRedis) -> AsyncIterator[RedisStore]:
    made = store_on(redis, pause_seconds=0.2)
    yield made
    await made._connection.aclose()


@pytest.fixture
async def other(redis: RunningRedis) -> AsyncIterator[RedisStore]:
    made = store_on(redis)
    yield made
    await made._connection.aclose()


async def test_what_was_written_is_read_by_others(store: RedisStore, other: RedisStore) -> None:
    assert await store.read("m") == NOTHING
    await store.replace(NOTHING, RECORD)
    assert await store.read("m") == RECORD
    assert await other.read("m") == RECORD


async def test_a_write_on_an_old_generation_is_refused(store: RedisStore) -> None:
    await store.replace(NOTHING, RECORD)
    other = msgspec.structs.replace(RECORD, reason="another change of that number")
    for expected in (NOTHING, at(2), other):
        with pytest.raises(GenerationConflict):
            await store.replace(expected, at(expected.generation + 1))
    assert await store.read("m") == RECORD


async def test_a_write_between_reading_and_writing_is_noticed(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store._write

    async def overtaken(*change: Any) -> int:
        await other.replace(NOTHING, at(1))
        return await write(*change)

    monkeypatch.setattr(store, "_write", overtaken)
    with pytest.raises(GenerationConflict, match="no longer at generation 0"):
        await store.replace(NOTHING, msgspec.structs.replace(RECORD, reason="overtaken"))
    assert (await store.read("m")).reason is None


async def test_writers_at_the_same_time_lose_nothing(redis: RunningRedis) -> None:
    async def count_up(times: int) -> None:
        store = store_on(redis)
        while times:
            stored = await store.read("m")
            try:
                await store.replace(stored, at(stored.generation + 1))
            except GenerationConflict:
                continue
            times -= 1
        await store._connection.aclose()

    await asyncio.gather(*(count_up(20) for _ in range(5)))
    store = store_on(redis)
    assert (await store.read("m")).generation == 100
    await store._connection.aclose()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"schema":2}', b'{"schema":1}', b'{"schema":1,"model_name":"n"}'],
)
async def test_a_strange_record_is_refused_and_never_overwritten(
    store: RedisStore, content: bytes
) -> None:
    await store._connection.client.set(KEY, content)
    with pytest.raises(RecordRefused, match=r"key gateway:\{m\}:routing"):
        await store.read("m")
    with pytest.raises(RecordRefused):
        await store.replace(NOTHING, RECORD)
    assert await store._connection.client.get(KEY) == content


async def test_a_change_is_announced_to_others_also_after_redis_was_gone(
    redis: RunningRedis, store: RedisStore, other: RedisStore
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    following = asyncio.create_task(store.follow(heard.put_nowait))

    async def hears_of_a_change() -> None:
        # A subscription that begins says so: what was announced before is found by reading.
        assert await asyncio.wait_for(heard.get(), 5) == ""
        for name in ("m", "another-model"):
            one = msgspec.structs.replace(RECORD, model_name=name)
            await other.replace(RoutingRecord(model_name=name), one)
            assert await asyncio.wait_for(heard.get(), 1) == name

    await hears_of_a_change()
    redis.process.kill()
    await asyncio.to_thread(redis.process.start)
    await hears_of_a_change()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_a_stopped_redis_is_abandoned_in_time_and_then_not_waited_for(
    redis: RunningRedis, store: RedisStore
) -> None:
    await store.replace(NOTHING, RECORD)
    redis.process.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"Redis at 127\.0\.0\.1"):
            await store.read("m")
        assert 0.3 < time.monotonic() - started < 2
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await store.read("m")
        # Each that waited would have taken 0.3 s.
        assert time.monotonic() - started < 3
    finally:
        redis.process.signal(signal.SIGCONT)
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(StoreUnavailable):  # in the pause after a failure
                assert await store.read("m") == RECORD
                break
            await asyncio.sleep(0.01)


async def test_a_change_that_was_abandoned_does_not_happen_later(
    redis: RunningRedis, store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.replace(NOTHING, RECORD)
    write = store._write

    async def stopped_before(*change: Any) -> int:
        redis.process.signal(signal.SIGSTOP)
        return await write(*change)

    monkeypatch.setattr(store, "_write", stopped_before)
    try:
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await store.replace(RECORD, at(2))
    finally:
        redis.process.signal(signal.SIGCONT)
    # The abandoned write reached Redis's buffers, before anything that is asked now.
    assert await other.read("m") == RECORD


async def test_a_redis_that_is_gone_is_reported_without_its_password(redis: RunningRedis) -> None:
    url = redis.url.replace("redis://", "redis://somebody:s3cret@")
    redis.process.kill()
    store = RedisStore(RedisConnection(SecretStr(url)))
    with pytest.raises(StoreUnavailable) as caught:
        await store.replace(NOTHING, RECORD)
    assert "s3cret" not in caught.value.message
    assert f"127.0.0.1:{redis.port}" in caught.value.message
    await store._connection.aclose()


async def test_a_wrong_password_is_reported(redis: RunningRedis, store: RedisStore) -> None:
    await store._connection.client.config_set("requirepass", "s3cret")
    stranger = store_on(redis)
    with pytest.raises(StoreUnavailable, match="Authentication required"):
        await stranger.read("m")
    await stranger._connection.aclose()


async def test_all_records_are_read_in_bulk_and_again_only_when_one_was_written(
    store: RedisStore, other: RedisStore
) -> None:
    names = [f"m{number}" for number in range(250)]
    for name in names:
        one = RoutingRecord(model_name=name)
        await other.replace(one, msgspec.structs.replace(RECORD, model_name=name))
    before = await commands(other)
    first = await store.read_all(["fresh"])
    assert await commands(other) - before < 12
    assert set(first) == {*names, "fresh"}
    assert {one.generation for one in first.values() if isinstance(one, RoutingRecord)} == {0, 1}
    again = await store.read_all(["fresh"])
    assert all(again[name] is first[name] for name in first)
    moved = msgspec.structs.replace(RECORD, model_name="m7", generation=2)
    await other.replace(msgspec.structs.replace(RECORD, model_name="m7"), moved)
    assert (await store.read_all(()))["m7"] == moved
    gone = RoutingRecord("m8", 2, removed=True)
    await other.replace(msgspec.structs.replace(RECORD, model_name="m8"), gone)
    assert "m8" not in await store.read_all(())
    assert (await store.read_all(["m8"]))["m8"] == gone


async def commands(store: RedisStore) -> int:
    return int((await store._connection.client.info("stats"))["total_commands_processed"])


async def test_what_a_failover_brings_back_is_read_at_once(
    store: RedisStore, other: RedisStore
) -> None:
    client: Any = store._connection.client
    await other.replace(NOTHING, RECORD)
    kept = {key: await client.get(key) for key in (KEY, "gateway:revision")}
    await other.replace(RECORD, at(2))
    assert (await store.read_all(()))["m"] == at(2)
    await client.mset(kept)
    assert (await store.read_all(()))["m"] == RECORD


async def test_a_key_of_another_type_is_its_own_models_trouble(
    store: RedisStore, other: RedisStore
) -> None:
    await other.replace(NOTHING, RECORD)
    client: Any = store._connection.client
    await client.lpush("gateway:{bad}:routing", "x")
    await client.sadd("gateway:models", "bad")
    found = await store.read_all(())
    assert found["m"] == RECORD
    assert isinstance(found["bad"], RecordRefused)
    assert "WRONGTYPE" in found["bad"].message
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            await store.read("bad")
        with pytest.raises(StoreUnavailable):
            await store.replace(RoutingRecord("bad"), RoutingRecord("bad", 1))
        assert await store.read("m") == RECORD, "the others are asked for all the same"
    await client.delete("gateway:{bad}:routing")
    assert (await store.read("bad")).generation == 0


async def test_a_list_of_models_of_another_type_stops_no_model(
    redis: RunningRedis, store: RedisStore, other: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.replace(NOTHING, RECORD)
    assert (await other.read_all(()))["m"] == RECORD
    client: Any = store._connection.client
    await client.delete("gateway:models")
    await client.lpush("gateway:models", "x")
    await store.replace(RECORD, at(2))
    for _ in range(2):
        other._read_fully_at = -10.0
        assert (await other.read_all(()))["m"] == at(2)
    new = store_on(redis)
    assert await new.read_all(()) == {"m": at(2)}, "found by its key"
    assert len(caplog.records) == 2, "once by each replica"
    assert "Delete the key" in caplog.records[0].message
    await new.aclose()

    await client.delete("gateway:models")
    other._read_fully_at = -10.0
    assert (await other.read_all(["m", "never routed"]))["m"] == at(2)
    assert await client.smembers("gateway:models") == {b"m"}, "what is hosted is listed again"


async def test_a_revision_of_another_type_stops_no_model_and_heals(
    store: RedisStore, other: RedisStore
) -> None:
    await other.replace(NOTHING, RECORD)
    client: Any = store._connection.client
    await client.delete("gateway:revision")
    await client.lpush("gateway:revision", "x")
    assert (await store.read_all(()))["m"] == RECORD
    await other.replace(RECORD, at(2))
    assert (await store.read_all(()))["m"] == at(2)
    assert await client.type("gateway:revision") == b"string"


def identity(name: str) -> ReplicaIdentity:
    return ReplicaIdentity(name, "host", 1, "2026-01-01T00:00:00.000Z")


def report(generation: int = 3, *, ready: bool = True) -> ModelReport:
    return ModelReport(generation, "digest", ready)


async def test_a_replica_is_listed_until_it_leaves_or_reports_nothing_more(
    redis: RunningRedis, store: RedisStore, other: RedisStore
) -> None:
    third = store_on(redis)
    assert await store.replicas("m", 5) == []
    await store.beat(identity("a"), {"m": report(), "n": report(7)}, 5)
    await other.beat(identity("b"), {"m": report()}, 5)
    await store.beat(identity("a"), {"m": report(4, ready=False), "n": report(7)}, 5)
    found = {r.id: (r.generation, r.ready, r.digest) for r in await third.replicas("m", 5)}
    assert found == {"a": (4, False, "digest"), "b": (3, True, "digest")}
    assert {r.id: r.generation for r in await third.replicas("n", 5)} == {"a": 7, "b": 0}
    await store.beat(identity("a"), {"n": report(7)}, 5)
    assert {r.id: r.generation for r in await third.replicas("m", 5)} == {"a": 0, "b": 3}
    await store.leave("a")
    await store.leave("a")
    (seen,) = await third.replicas("m", 5)
    assert 0 <= seen.age_seconds < 1
    async with asyncio.timeout(5):
        while await third.replicas("m", 0.2):  # noqa: ASYNC110 -- an expiry signals nothing
            await asyncio.sleep(0.01)
    # The next replica that reports forgets the dead one.
    await third.beat(identity("c"), {"m": report()}, 0.2)
    client: Any = store._connection.client
    assert list(await client.hgetall("gateway:replicas")) == [b"c"]
    async with asyncio.timeout(5):
        while await client.exists(  # noqa: ASYNC110 -- an expiry signals nothing
            "gateway:replicas", "gateway:replica:c"
        ):
            await asyncio.sleep(0.01)
    await third._connection.aclose()


async def test_a_redis_that_lost_a_replica_gets_its_whole_report_again(
    store: RedisStore, other: RedisStore
) -> None:
    reports = {f"m{number}": report(number) for number in range(1, 4)}
    await store.beat(identity("a"), reports, 5)
    await other._connection.client.flushall()
    await store.beat(identity("a"), reports, 5)
    for number in range(1, 4):
        (seen,) = await other.replicas(f"m{number}", 5)
        assert seen.generation == number


@pytest.mark.parametrize("key", ["gateway:replicas", "gateway:replica:a"])
async def test_replica_key_of_another_type_is_replaced_by_the_next_report(
    store: RedisStore, other: RedisStore, key: str
) -> None:
    await store.beat(identity("a"), {"m": report()}, 5)
    client: Any = store._connection.client
    await client.delete(key)
    await client.lpush(key, "x")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store.replicas("m", 5)
    await store.beat(identity("a"), {"m": report()}, 5)
    (seen,) = await other.replicas("m", 5)
    assert (seen.id, seen.generation) == ("a", 3)


async def test_replica_without_a_time_is_ignored_and_forgotten(store: RedisStore) -> None:
    client: Any = store._connection.client
    await client.hset("gateway:replicas", "x", "soon")
    assert await store.replicas("m", 5) == []
    await store.beat(identity("a"), {"m": report()}, 5)
    assert list(await client.hgetall("gateway:replicas")) == [b"a"]


async def test_replica_whose_id_no_gateway_has_is_ignored(store: RedisStore) -> None:
    client: Any = store._connection.client
    await client.hset("gateway:replicas", b"\xff", "9" * 13)
    await store.beat(identity("a"), {"m": report()}, 5)
    assert [one.id for one in await store.replicas("m", 5)] == ["a"]


async def test_an_unchanged_report_is_a_small_sign_of_life(
    store: RedisStore, other: RedisStore
) -> None:
    reports = {f"m{number}": report(number) for number in range(500)}
    await store.beat(identity("a"), reports, 5)
    before = await commands(other)
    await store.beat(identity("a"), reports, 5)
    assert await commands(other) - before < 12


async def test_a_replica_that_cannot_be_read_is_not_left_out_in_silence(store: RedisStore) -> None:
    await store.beat(identity("a"), {}, 5)
    client: Any = store._connection.client
    await client.hset("gateway:replica:a", "m", "{}")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await store.replicas("m", 5)
