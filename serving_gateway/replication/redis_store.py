"""The routing record in Redis: shared by replicas on any host, announced when it changes.

A Redis that hangs is given up after a short limit, and for a moment after a failure nobody waits
for it again. A change that was given up must not happen later, when a Redis that was stopped
goes on with what stands in its buffers: so the write carries a deadline by Redis's own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from serving_gateway.contract import LiveReplica, ReplicaStatus, RoutingRecord, is_model_name
from serving_gateway.errors import GenerationConflict, StoreUnavailable
from serving_gateway.replication.redis_connection import RedisConnection, failures
from serving_gateway.replication.replicas import decode_replica, live
from serving_gateway.replication.store import decode_record
from serving_gateway.tasks import is_being_cancelled

_SILENCE_SECONDS: Final = 5.0
"""After which a subscription that hears nothing asks whether anybody is there."""

_NAMES: Final = "gateway:models"
_WRITTEN: Final = 1
_LATE: Final = -1
_WRITE: Final = """
local now = redis.call('TIME')
if now[1] * 1000000 + now[2] > tonumber(ARGV[3]) then return -1 end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', KEYS[2], '')
return 1
"""
"""Compares byte by byte, so that nothing has to be decoded in there."""

_BEAT: Final = """
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
local noted = redis.call('HGETALL', KEYS[1])
for i = 1, #noted, 2 do
  local told = tonumber(string.match(noted[i + 1], '^%d+'))
  if told and told < at - tonumber(ARGV[3]) then redis.call('HDEL', KEYS[1], noted[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', at) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
"""Notes a replica with the time by Redis's clock, which all share, and forgets the dead."""


class RedisStores:
    """The stores of all models in one Redis, and the set of their names.

    Args:
        connection: the client that all of them share.
    """

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def of(self, model_name: str) -> RedisStore:
        """The store of one model."""
        return RedisStore(self._connection, model_name)

    async def names(self) -> frozenset[str]:
        """The models that have, or are about to get, a routing record.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        async with self._connection.asking() as redis:
            asked: Any = redis.smembers(_NAMES)
            noted: set[bytes] = await asked
        found = (name.decode(errors="replace") for name in noted)
        return frozenset(name for name in found if is_model_name(name))

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._connection.aclose()


class RedisStore:
    """The record under one key of a Redis, version 5 or later, and the replicas under another.

    Args:
        connection: the client.
        model_name: whose record it is.
    """

    def __init__(self, connection: RedisConnection, model_name: str) -> None:
        self._model_name = model_name
        self._key = f"gateway:{{{model_name}}}:routing"
        self._channel = f"gateway:{{{model_name}}}:changed"
        self._replicas_key = f"gateway:{{{model_name}}}:replicas"
        self._connection = connection
        self._where = connection.where
        self._seen: tuple[bytes, RoutingRecord] | None = None

    async def read(self) -> RoutingRecord:
        """The newest record; generation 0 when none was ever written.

        Raises:
            StoreUnavailable: Redis does not answer.
            RecordRefused: it is corrupt, of a newer schema, or of another model.
        """
        async with self._connection.asking() as redis:
            data: bytes | None = await redis.get(self._key)
        return self._decoded(data)

    async def compare_and_set(self, expected: int, record: RoutingRecord) -> None:
        """Write `record` if the stored generation is `expected`, and tell the other replicas.

        Raises:
            GenerationConflict: it is not; nothing was written.
            StoreUnavailable: it cannot be written, or what is there cannot be read.
        """
        async with self._connection.asking() as redis:
            question = redis.pipeline(transaction=False)
            question.time()
            question.get(self._key)
            (seconds, micros), data = await question.execute()
        stored = self._decoded(data).generation
        if stored != expected:
            raise _changed_meanwhile(f"is at generation {stored}, not at {expected}")
        if expected == 0:
            # Before the record, so that no model is left that the other replicas never find.
            async with self._connection.asking() as redis:
                noted: Any = redis.sadd(_NAMES, self._model_name)
                await noted
        deadline = seconds * 1_000_000 + micros + int(self._connection.limit_seconds * 800_000)
        outcome = await self._write(data or b"", msgspec.json.encode(record), deadline)
        if outcome == _LATE:
            raise StoreUnavailable(f"{self._where} was too slow; nothing was written.")
        if outcome != _WRITTEN:
            raise _changed_meanwhile(f"is no longer at generation {expected}")

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` when a replica announces a change, until cancelled.

        What is announced while the subscription is down is found by reading.
        """
        while not is_being_cancelled():
            with contextlib.suppress(*failures()):
                await self._listen(changed)
            await asyncio.sleep(self._connection.pause_seconds)

    async def beat(self, replica: ReplicaStatus, keep_seconds: float) -> None:
        """Note that a replica lives; to be repeated before `keep_seconds` have passed.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        told = msgspec.json.encode(replica)
        keep_ms = str(int(keep_seconds * 1000))
        async with self._connection.asking() as redis:
            beaten: Any = redis.eval(_BEAT, 1, self._replicas_key, replica.id, told, keep_ms)
            await beaten

    async def leave(self, replica_id: str) -> None:
        """Forget a replica that ends.

        Raises:
            StoreUnavailable: Redis does not answer; the replica expires.
        """
        async with self._connection.asking() as redis:
            left: Any = redis.hdel(self._replicas_key, replica_id)
            await left

    async def replicas(self, keep_seconds: float) -> list[LiveReplica]:
        """The replicas noted within the last `keep_seconds`, by Redis's clock.

        Raises:
            StoreUnavailable: Redis does not answer, or not all of them can be read.
        """
        async with self._connection.asking() as redis:
            question = redis.pipeline(transaction=False)
            question.time()
            question.hgetall(self._replicas_key)
            (seconds, micros), noted = await question.execute()
        found: list[LiveReplica] = []
        for told in noted.values():
            at, _, data = told.partition(b" ")
            replica = decode_replica(data, f"{self._where} (key {self._replicas_key})")
            age = seconds + micros / 1e6 - int(at) / 1e3
            if age <= keep_seconds:
                found.append(live(replica, max(0.0, age)))
        return found

    def _decoded(self, data: bytes | None) -> RoutingRecord:
        if data is None:
            return RoutingRecord(model_name=self._model_name)
        if self._seen is None or self._seen[0] != data:
            where = f"{self._where} (key {self._key})"
            self._seen = (data, decode_record(data, self._model_name, where))
        return self._seen[1]

    async def _write(self, old: bytes, new: bytes, deadline: int) -> int:
        keys = (self._key, self._channel)
        try:
            async with self._connection.asking() as redis:
                # redis-py's type of eval covers its blocking client too.
                answer: Any = redis.eval(_WRITE, len(keys), *keys, old, new, str(deadline))
                return int(await answer)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{error.message} Unless that happened just after the change was taken, nothing "
                "was written: look at /models before trying again."
            ) from error

    async def _listen(self, changed: Callable[[], None]) -> None:
        async with self._connection.client.pubsub() as subscription:
            async with asyncio.timeout(self._connection.limit_seconds):
                await subscription.subscribe(self._channel)
            asked = False
            while not is_being_cancelled():
                message = await subscription.get_message(timeout=_SILENCE_SECONDS)
                if message is not None:
                    asked = False
                    changed()
                elif asked:
                    return
                else:
                    asked = True
                    await subscription.ping()


def _changed_meanwhile(how: str) -> GenerationConflict:
    return GenerationConflict(f"The routing record {how}: somebody changed it meanwhile.")
