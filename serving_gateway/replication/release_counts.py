"""Stores of the replicas' counts of a release, so that restarts lose nothing.

Each process writes its own counts, as absolute numbers under its own id, so writing twice counts
once, and the counts of all processes add up. A store that loses them loses evidence, never the
release. The counts of a release are deleted a day after it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from serving_gateway.contract import ReleaseEvidence, check_phase, is_model_name
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.record_files import in_thread, replace_file
from serving_gateway.replication.redis_connection import RedisConnection

MOST_PROCESSES: Final = 256
"""Processes whose counts are kept per release; those of further ones are not."""
_MOST_BYTES: Final = 1_048_576
"""Limit for a process's counts: three times what 50 steps take in which all latencies differ."""
_KEPT_SECONDS: Final = 86_400
_ACTIVE_SECONDS: Final = 90 * 86_400
"""A release for which nothing was counted for so long has no evidence left."""

_PUT: Final = """
local known = redis.call('HEXISTS', KEYS[1], ARGV[1])
if known == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class RedisReleaseCounts:
    """One hash per model and release, with a field per process."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def put(
        self, model_name: str, process_id: str, evidence: ReleaseEvidence, *, has_ended: bool
    ) -> None:
        """Replace a process's counts; `StoreUnavailable` when that is not possible."""
        key, data = _key(model_name, evidence.release_id), msgspec.json.encode(evidence)
        seconds = _KEPT_SECONDS if has_ended else _ACTIVE_SECONDS
        values = (process_id, data, str(seconds), str(MOST_PROCESSES))
        async with self._connection.session() as redis:
            answer: Any = redis.eval(_PUT, 1, key, *values)
            is_kept = bool(await answer)
        if not is_kept:
            raise _full(evidence.release_id)

    async def read(self, model_name: str, release_id: str) -> Mapping[str, ReleaseEvidence]:
        """The counts of the processes, by their ids; raises `StoreUnavailable`."""
        async with self._connection.session() as redis:
            answer: Any = redis.hgetall(_key(model_name, release_id))
            stored: dict[bytes, bytes] = await answer
        # In a thread: hundreds of processes may have counted.
        return await asyncio.to_thread(_decode_all, stored)

    async def end(self, model_name: str, release_id: str) -> None:
        """Note that a release has ended; raises `StoreUnavailable`."""
        async with self._connection.session() as redis:
            await redis.expire(_key(model_name, release_id), _KEPT_SECONDS)


class FileReleaseCounts:
    """A file per model, release and process: for the replicas of one host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "releases"

    @in_thread
    def put(
        self,
        model_name: str,
        process_id: str,
        evidence: ReleaseEvidence,
        *,
        has_ended: bool,  # noqa: ARG002 -- the age of the files says it, once it is the last
    ) -> None:
        """Replace a process's counts; `StoreUnavailable` when that is not possible."""
        folder = self._folder(model_name, evidence.release_id)
        path = folder / f"{process_id}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() and len(list(folder.glob("*.json"))) >= MOST_PROCESSES:
                raise _full(evidence.release_id)
            replace_file(path, msgspec.json.encode(evidence))
        except OSError as error:
            raise StoreUnavailable(f"Counts of a release cannot be written: {error}.") from error

    @in_thread
    def read(self, model_name: str, release_id: str) -> Mapping[str, ReleaseEvidence]:
        """The counts of the processes, by their ids; raises `StoreUnavailable`."""
        counts: dict[str, ReleaseEvidence] = {}
        try:
            for path in self._folder(model_name, release_id).glob("*.json"):
                counts[path.stem] = _decode(path.read_bytes(), path.stem)
        except OSError as error:
            raise StoreUnavailable(f"Counts of a release cannot be read: {error}.") from error
        return counts

    @in_thread
    def end(self, model_name: str, release_id: str) -> None:
        """Delete the model's counts of releases that ended a day ago, except for this one."""
        oldest = time.time() - _KEPT_SECONDS
        folder = self._folder(model_name, release_id)
        with contextlib.suppress(OSError):  # tried again after the next release
            for other in folder.parent.iterdir():
                files = [*other.iterdir()]
                if other == folder or any(file.stat().st_mtime > oldest for file in files):
                    continue
                for file in files:
                    file.unlink(missing_ok=True)
                other.rmdir()

    def _folder(self, model_name: str, release_id: str) -> Path:
        if not is_model_name(model_name) or not release_id.isalnum():
            raise StoreUnavailable(f"{release_id!r} is not the id of a release.")
        return self._directory / model_name / release_id


ReleaseCountStore = FileReleaseCounts | RedisReleaseCounts


def _key(model_name: str, release_id: str) -> str:
    return f"gateway:{{{model_name}}}:release:{release_id}"


def _decode_all(stored: Mapping[bytes, bytes]) -> Mapping[str, ReleaseEvidence]:
    names = {name.decode(errors="replace"): data for name, data in stored.items()}
    return {name: _decode(data, name) for name, data in names.items()}


def _decode(data: bytes, process_id: str) -> ReleaseEvidence:
    place = f"What {process_id} counted of a release cannot be read"
    if len(data) > _MOST_BYTES:
        raise StoreUnavailable(f"{place}: it has {len(data):,} bytes.")
    try:
        evidence = msgspec.json.decode(data, type=ReleaseEvidence)
        for counted in evidence.phases.values():
            check_phase(counted)
    except ValueError as error:
        raise StoreUnavailable(f"{place}: {str(error).rstrip('.')}.") from error
    return evidence


def _full(release_id: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{MOST_PROCESSES} processes have counted release {release_id} already; what this one "
        "counts is kept by itself alone."
    )
