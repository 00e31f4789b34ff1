"""The routing record on a real Redis: compared and set, announced, and given up in time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from serving_gateway.contract import Mode, ReplicaStatus, RoutingRecord, Slot
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.redis_store import RedisStore
from tests.servers import RunningRedis

KEY = "gateway:{m}:routing"
RECORD = RoutingRecord(
    model_name="m",
    generation=1,
    variants={"A": Slot(3, "run", "registry", Mode.SSOT)},
)


def at(generation: int) -> RoutingRecord:
    return msgspec.structs.replace(RECORD, generation=generation)


def store_on(redis: RunningRedis, **options: Any) -> RedisStore:
    return RedisStore(RedisConnection(SecretStr(redis.url), **options), "m")


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
    assert await store.read() == RoutingRecord(model_name="m")
    await store.compare_and_set(0, RECORD)
    assert await store.read() == RECORD
    assert await other.read() == RECORD


async def test_a_write_on_an_old_generation_is_refused(store: RedisStore) -> None:
    await store.compare_and_set(0, RECORD)
    for expected in (0, 2):
        with pytest.raises(GenerationConflict):
            await store.compare_and_set(expected, at(expected + 1))
    assert await store.read() == RECORD


async def test_a_write_between_reading_and_writing_is_noticed(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store._write

    async def overtaken(old: bytes, new: bytes, deadline: int) -> int:
        await other.compare_and_set(0, at(1))
        return await write(old, new, deadline)

    monkeypatch.setattr(store, "_write", overtaken)
    with pytest.raises(GenerationConflict, match="no longer at generation 0"):
        await store.compare_and_set(0, msgspec.structs.replace(RECORD, reason="overtaken"))
    assert (await store.read()).reason is None


async def test_writers_at_the_same_time_lose_nothing(redis: RunningRedis) -> None:
    async def count_up(times: int) -> None:
        store = store_on(redis)
        while times:
            generation = (await store.read()).generation
            try:
                await store.compare_and_set(generation, at(generation + 1))
            except GenerationConflict:
                continue
            times -= 1
        await store._connection.aclose()

    await asyncio.gather(*(count_up(20) for _ in range(5)))
    store = store_on(redis)
    assert (await store.read()).generation == 100
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
        await store.read()
    with pytest.raises(RecordRefused):
        await store.compare_and_set(0, RECORD)
    assert await store._connection.client.get(KEY) == content


async def test_a_change_is_announced_to_others_also_after_redis_was_gone(
    redis: RunningRedis, store: RedisStore, other: RedisStore
) -> None:
    heard = asyncio.Event()
    following = asyncio.create_task(store.follow(heard.set))

    async def hears_of(generation: int) -> None:
        # The subscription announces itself as well: wait for that, then for the change alone.
        async with asyncio.timeout(5):
            await heard.wait()
        heard.clear()
        await other.compare_and_set(generation - 1, at(generation))
        async with asyncio.timeout(1):
            await heard.wait()
        heard.clear()

    await hears_of(1)
    redis.process.kill()
    await asyncio.to_thread(redis.process.start)
    await hears_of(1)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


async def test_a_stopped_redis_is_given_up_in_time_and_then_not_waited_for(
    redis: RunningRedis, store: RedisStore
) -> None:
    await store.compare_and_set(0, RECORD)
    redis.process.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"Redis at 127\.0\.0\.1"):
            await store.read()
        assert 0.3 < time.monotonic() - started < 2
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await store.read()
        assert time.monotonic() - started < 0.4
    finally:
        redis.process.signal(signal.SIGCONT)
    await asyncio.sleep(0.25)  # the pause after a failure
    assert await store.read() == RECORD


async def test_a_change_that_was_given_up_does_not_happen_later(
    redis: RunningRedis, store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.compare_and_set(0, RECORD)
    write = store._write

    async def stopped_before(old: bytes, new: bytes, deadline: int) -> int:
        redis.process.signal(signal.SIGSTOP)
        return await write(old, new, deadline)

    monkeypatch.setattr(store, "_write", stopped_before)
    try:
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await store.compare_and_set(1, at(2))
    finally:
        redis.process.signal(signal.SIGCONT)
    # The abandoned write reached Redis's buffers, before anything that is asked now.
    assert await other.read() == RECORD


async def test_a_redis_that_is_gone_is_told_without_its_password(redis: RunningRedis) -> None:
    url = redis.url.replace("redis://", "redis://somebody:s3cret@")
    redis.process.kill()
    store = RedisStore(RedisConnection(SecretStr(url)), "m")
    with pytest.raises(StoreUnavailable) as caught:
        await store.compare_and_set(0, RECORD)
    assert "s3cret" not in caught.value.message
    assert f"127.0.0.1:{redis.port}" in caught.value.message
    await store._connection.aclose()


async def test_a_wrong_password_is_told(redis: RunningRedis, store: RedisStore) -> None:
    await store._connection.client.config_set("requirepass", "s3cret")
    stranger = store_on(redis)
    with pytest.raises(StoreUnavailable, match="Authentication required"):
        await stranger.read()
    await stranger._connection.aclose()


def replica(name: str, generation: int = 3, *, ready: bool = True) -> ReplicaStatus:
    return ReplicaStatus(name, "host", 1, "2026-01-01T00:00:00.000Z", generation, ready, ())


async def test_a_replica_is_listed_until_it_leaves_or_tells_nothing_more(
    store: RedisStore, other: RedisStore
) -> None:
    assert await store.replicas(5) == []
    for told in (replica("a"), replica("b"), replica("a", 4, ready=False)):
        await store.beat(told, 5)
    found = {r.id: (r.generation, r.ready) for r in await other.replicas(5)}
    assert found == {"a": (4, False), "b": (3, True)}
    await store.leave("a")
    await store.leave("a")
    (seen,) = await other.replicas(5)
    assert 0 <= seen.age_seconds < 1
    await asyncio.sleep(0.3)
    assert await other.replicas(0.2) == []
    # The next replica that tells of itself forgets the dead one.
    await store.beat(replica("c"), 0.2)
    client: Any = store._connection.client
    assert list(await client.hgetall("gateway:{m}:replicas")) == [b"c"]
    await asyncio.sleep(0.3)
    assert await store._connection.client.exists("gateway:{m}:replicas") == 0


async def test_a_replica_that_cannot_be_read_is_not_left_out_in_silence(store: RedisStore) -> None:
    await store.beat(replica("a"), 5)
    client: Any = store._connection.client
    await client.hset("gateway:{m}:replicas", "b", "1790000000000 {}")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        await store.replicas(5)
