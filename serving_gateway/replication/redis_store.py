"""Routing records in Redis: shared by replicas on any host, announced when they change.

However many models a replica hosts, it has one subscription, one heartbeat, one check whether
anything was written, and a bulk read when it was, or every few seconds in case a record was written
by something other than a gateway.

An abandoned change must not happen later, when a Redis that was stopped resumes with its buffers:
so the write carries a deadline by Redis's own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from serving_gateway.contract import LiveReplica, ReplicaIdentity, RoutingRecord, is_model_name
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.records import (
    RecordOrError,
    require_record,
    require_unchanged,
    try_decode_record,
)
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.replicas import ModelReport, decode_report, status_of, with_age
from serving_gateway.tasks import is_being_cancelled

log = logging.getLogger(__name__)

_SILENCE_SECONDS: Final = 5.0
"""Silence after which a subscription checks that Redis still answers."""
_FULL_SECONDS: Final = 5.0
"""How often all records are read even if no gateway wrote one."""
_BULK: Final = 100
"""Records read by one command, so that neither Redis nor the event loop stalls."""
_LARGE_BYTES: Final = 65_536
"""Size from which a record is decoded in a thread, piece by piece."""

_NAMES: Final = "gateway:models"
_REVISION: Final = "gateway:revision"
_REPLICAS: Final = "gateway:replicas"
_CHANNELS: Final = "gateway:{*}:changed"
_WRITTEN: Final = 1
_LATE: Final = -1
_WRITE: Final = """
local now = redis.call('TIME')
if now[1] * 1000000 + now[2] > tonumber(ARGV[3]) then return -1 end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.pcall(ARGV[6], KEYS[3], ARGV[4])
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[4], ARGV[5])
redis.call('PUBLISH', KEYS[2], '')
return 1
"""
"""Compares byte by byte, so that the script decodes nothing. The name is listed with the record, so
that other replicas find every model; where the list is a key of another type, the change is still
written. The revision is a random token: a failover that loses writes restores an older one, which
differs from the last one seen."""

_BEAT: Final = """
for _, key in ipairs(KEYS) do
  if redis.call('TYPE', key).ok ~= 'hash' then redis.call('DEL', key) end
end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2])
elseif redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[2], ARGV[i])
  else redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
local now = redis.call('TIME')
local at = now[1] * 1000 + math.floor(now[2] / 1000)
local noted = redis.call('HGETALL', KEYS[1])
for i = 1, #noted, 2 do
  local seen = tonumber(noted[i + 1])
  if not seen or seen < at - tonumber(ARGV[2]) then redis.call('HDEL', KEYS[1], noted[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', at))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
"""Records what changed about a replica, with the time by Redis's clock, which all share, and
forgets replicas that died. Returns 0 when Redis lost what the replica had reported before. All of
it is reported again within seconds, so a key of another type is replaced."""


_Data = bytes | Exception | None
"""Redis's answer for a key: an error when the key is of another type."""


class RedisStore:
    """Routing records in one Redis, version 5 or later."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._where = connection.where
        self._seen: dict[str, tuple[_Data, RecordOrError]] = {}
        self._names: frozenset[str] = frozenset()
        self._names_problem = ""
        self._revision: _Data = None
        self._read_fully_at = -_FULL_SECONDS
        self._sent: dict[str, ModelReport] | None = None

    async def read(self, model_name: str) -> RoutingRecord:
        """A model's record, read now; generation 0 when none was ever written."""
        async with self._connection.session() as redis:
            data: bytes | None = await redis.get(_key(model_name))
        return require_record(await self._look_up(model_name, data))

    async def read_all(self, hosted: Collection[str]) -> Mapping[str, RecordOrError]:
        """The records of all models; for a few seconds from memory while no gateway writes one."""
        revision = await self._ask("GET", _REVISION)
        if isinstance(revision, Exception):
            revision = None  # a key of another type: the next change replaces it
        known = revision == self._revision and self._names.issuperset(hosted)
        if not known or time.monotonic() - self._read_fully_at >= _FULL_SECONDS:
            listed = await self._list_models()
            names = sorted({*listed, *hosted})
            for start in range(0, len(names), _BULK):
                await self._read_bulk(names[start : start + _BULK])
            routed = {name for name in hosted if self._is_routed(name)}
            if unlisted := routed.difference(listed):
                with contextlib.suppress(StoreUnavailable):  # retried at the next full read
                    await self._ask("SADD", _NAMES, *unlisted)
            self._names = frozenset(names)
            # Noted last: what failed above is read again.
            self._revision, self._read_fully_at = revision, time.monotonic()
        return {name: self._seen[name][1] for name in self._names}

    async def replace(self, expected: RoutingRecord, record: RoutingRecord) -> None:
        """Replace `expected` by `record`, and announce it; else `GenerationConflict`."""
        name = record.model_name
        async with self._connection.session() as redis:
            question = redis.pipeline(transaction=False)
            question.time()
            question.get(_key(name))
            (seconds, micros), data = await question.execute()
        require_unchanged(await self._look_up(name, data), expected)
        deadline = seconds * 1_000_000 + micros + int(self._connection.limit_seconds * 800_000)
        new = msgspec.json.encode(record)
        outcome = await self._write(record, data or b"", new, deadline)
        if outcome == _LATE:
            raise StoreUnavailable(f"{self._where} was too slow; nothing was written.")
        if outcome != _WRITTEN:
            raise GenerationConflict(
                f"The routing record is no longer at generation {expected.generation}."
            )
        self._seen[name] = (new, record)

    async def follow(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with each name that is announced; with '' when all have to be read."""
        while not is_being_cancelled():
            with contextlib.suppress(*self._connection.failures):
                await self._listen(changed)
            await asyncio.sleep(self._connection.pause_seconds)

    async def beat(
        self, replica: ReplicaIdentity, reports: Mapping[str, ModelReport], keep_seconds: float
    ) -> None:
        """Record that a replica lives, and what changed in its reports."""
        before, self._sent = self._sent, None  # unknown until Redis has answered
        if before is None or not await self._beat(replica, keep_seconds, before, reports):
            await self._beat(replica, keep_seconds, None, reports)
        self._sent = dict(reports)

    async def leave(self, replica_id: str) -> None:
        """Remove a replica that ends."""
        async with self._connection.session() as redis:
            question = redis.pipeline(transaction=False)
            question.hdel(_REPLICAS, replica_id)
            question.delete(_replica_key(replica_id))
            await question.execute()

    async def replicas(self, model_name: str, keep_seconds: float) -> list[LiveReplica]:
        """The replicas noted within the last `keep_seconds`, by Redis's clock."""
        async with self._connection.session() as redis:
            question = redis.pipeline(transaction=False)
            question.time()
            question.hgetall(_REPLICAS)
            (seconds, micros), noted = await question.execute()
            now, times = seconds + micros / 1e6, noted.items()
            ages = {name: now - int(at) / 1e3 for name, at in times if at.isdigit()}
            alive = [
                name.decode(errors="replace") for name, age in ages.items() if age <= keep_seconds
            ]
            for replica_id in alive:
                question.hmget(_replica_key(replica_id), ["", model_name])
            reported = await question.execute()
        replicas: list[LiveReplica] = []
        for name, (identity, report) in zip(alive, reported, strict=True):
            if identity is None:  # it left meanwhile
                continue
            where = f"{self._where} (key {_replica_key(name)})"
            replica = decode_report(identity, ReplicaIdentity, where)
            status = status_of(
                replica, None if report is None else decode_report(report, ModelReport, where)
            )
            replicas.append(with_age(status, max(0.0, ages[name.encode()])))
        return replicas

    async def aclose(self) -> None:
        """Close connections."""
        await self._connection.aclose()

    async def _list_models(self) -> Collection[str]:
        """The models that have a record; found by their keys if the list is of another type."""
        names = await self._ask("SMEMBERS", _NAMES)
        problem = str(names) if isinstance(names, Exception) else ""
        if problem and problem != self._names_problem:
            log.error(
                "the list of models in Redis cannot be read; those known are served. Delete the "
                "key: the replicas list what they host in it again.",
                extra={"key": _NAMES, "reason": problem},
            )
        self._names_problem = problem
        if problem and self._names:
            return self._names
        if problem:
            async with self._connection.session() as redis:
                keys = redis.scan_iter(match=_key("*"), count=10_000)
                names = [key.partition(b"{")[2].partition(b"}")[0] async for key in keys]
        return [*filter(is_model_name, (name.decode(errors="replace") for name in names))]

    def _is_routed(self, model_name: str) -> bool:
        stored = self._seen[model_name][1]
        return isinstance(stored, RoutingRecord) and stored.is_routed

    async def _ask(self, *command: str) -> Any:
        """The answer to one command, which is an error for a key of another type."""
        async with self._connection.session() as redis:
            question = redis.pipeline(transaction=False)
            question.execute_command(*command)
            (answer,) = await question.execute(raise_on_error=False)
            if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
                raise answer
        return answer

    async def _read_bulk(self, names: Sequence[str]) -> None:
        async with self._connection.session() as redis:
            values: list[bytes | None] = await redis.mget(map(_key, names))
            # MGET reports a key of another type as missing; GET alone reveals the error.
            missing = [name for name, data in zip(names, values, strict=True) if data is None]
            question = redis.pipeline(transaction=False)
            for name in missing:
                question.get(_key(name))
            answers: list[_Data] = await question.execute(raise_on_error=False)
        found: dict[str, _Data] = dict(zip(names, values, strict=True))
        for name, data in (found | dict(zip(missing, answers, strict=True))).items():
            await self._look_up(name, data)

    async def _look_up(self, model_name: str, data: _Data) -> RecordOrError:
        """Interpret Redis's answer; the same object for the same answer."""
        before, stored = self._seen.get(model_name, (None, None))
        if stored is None or before != data:
            where = f"{self._where} (key {_key(model_name)})"
            if isinstance(data, Exception):
                stored = RecordRefused(f"{where} holds no record: {data}.")
            elif data is None or len(data) < _LARGE_BYTES:
                stored = try_decode_record(data, model_name, where)
            else:
                stored = await asyncio.to_thread(try_decode_record, data, model_name, where)
            self._seen[model_name] = (data, stored)
        return stored

    async def _write(self, record: RoutingRecord, old: bytes, new: bytes, deadline: int) -> int:
        name = record.model_name
        keys = (_key(name), f"gateway:{{{name}}}:changed", _NAMES, _REVISION)
        listing = "SREM" if record.removed else "SADD"
        values = (old, new, str(deadline), name, os.urandom(8).hex(), listing)
        try:
            async with self._connection.session() as redis:
                # redis-py's type of eval covers its blocking client too.
                answer: Any = redis.eval(_WRITE, len(keys), *keys, *values)
                return int(await answer)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{error.message} Unless that happened just after the change was stored, nothing "
                "was written: look at /models before trying again."
            ) from error

    async def _beat(
        self,
        replica: ReplicaIdentity,
        keep_seconds: float,
        before: Mapping[str, ModelReport] | None,
        reports: Mapping[str, ModelReport],
    ) -> bool:
        """Send what differs from `before`; as a new replica, everything with the identity."""
        values: list[str | bytes] = [replica.id, str(int(keep_seconds * 1000))]
        values += ("0",) if before is not None else ("1", "", msgspec.json.encode(replica))
        before = before or {}
        for name in before.keys() | reports.keys():
            report = reports.get(name)
            if before.get(name) != report:
                values += (name, b"" if report is None else msgspec.json.encode(report))
        keys = (_REPLICAS, _replica_key(replica.id))
        async with self._connection.session() as redis:
            answer: Any = redis.eval(_BEAT, len(keys), *keys, *values)
            return bool(await answer)

    async def _listen(self, changed: Callable[[str], None]) -> None:
        async with self._connection.client.pubsub() as subscription:
            async with asyncio.timeout(self._connection.limit_seconds):
                await subscription.psubscribe(_CHANNELS)
            has_pinged = False
            while not is_being_cancelled():
                message = await subscription.get_message(timeout=_SILENCE_SECONDS)
                if message is not None:
                    has_pinged = False
                    if message["type"] == "pmessage":
                        channel: str = message["channel"].decode(errors="replace")
                        changed(channel.removeprefix("gateway:{").removesuffix("}:changed"))
                    elif message["type"] == "psubscribe":
                        self._connection.resume()
                        changed("")
                elif has_pinged:
                    return
                else:
                    has_pinged = True
                    await subscription.ping()


def _key(model_name: str) -> str:
    return f"gateway:{{{model_name}}}:routing"


def _replica_key(replica_id: str) -> str:
    return f"gateway:replica:{replica_id}"
