"""Where the routing record is kept. The file store serves all replicas of one host."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import msgspec

from serving_gateway.contract import (
    RECORD_SCHEMA,
    LiveReplica,
    ReplicaStatus,
    RoutingRecord,
    is_model_name,
)
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.atomic_file import replace_durably
from serving_gateway.replication.replicas import decode_replica, live

_LOCK_SECONDS: Final = 2.0
_PREFIX: Final = "routing-"


class RoutingStore(Protocol):
    """Keeps the routing record of one model, and knows which replicas live."""

    async def read(self) -> RoutingRecord:
        """The newest record; generation 0 when none was ever written.

        Raises:
            StoreUnavailable: it cannot be read.
            RecordRefused: it is corrupt, of a newer schema, or of another model.
        """

    async def compare_and_set(self, expected: int, record: RoutingRecord) -> None:
        """Write `record` if the stored generation is `expected`.

        Raises:
            GenerationConflict: it is not; nothing was written.
            StoreUnavailable: it cannot be written, or what is there cannot be read.
        """

    async def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the record may have changed, until cancelled.

        A help, not a promise: whoever follows reads from time to time as well.
        """

    async def beat(self, replica: ReplicaStatus, keep_seconds: float) -> None:
        """Note that a replica lives; to be repeated before `keep_seconds` have passed.

        Raises:
            StoreUnavailable: it cannot be noted.
        """

    async def leave(self, replica_id: str) -> None:
        """Forget a replica that ends.

        Raises:
            StoreUnavailable: it cannot be forgotten now; it expires.
        """

    async def replicas(self, keep_seconds: float) -> list[LiveReplica]:
        """The replicas noted within the last `keep_seconds`.

        Raises:
            StoreUnavailable: they cannot be listed, or not all of them can be read.
        """


class Stores(Protocol):
    """The routing stores of all models."""

    def of(self, model_name: str) -> RoutingStore:
        """The store of one model."""

    async def names(self) -> frozenset[str]:
        """The models that have a routing record.

        Raises:
            StoreUnavailable: they cannot be listed.
        """

    async def aclose(self) -> None:
        """Let go of connections."""


class _Schema(msgspec.Struct):
    schema: int


def decode_record(data: bytes, model_name: str, where: str) -> RoutingRecord:
    """Read a stored record.

    Raises:
        RecordRefused: it is corrupt, of a newer schema, or of another model; `where` is named.
    """
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema > RECORD_SCHEMA:
            raise RecordRefused(
                f"The routing record in {where} has schema {schema}; this gateway reads up to "
                f"{RECORD_SCHEMA}. Run the newer gateway that wrote it."
            )
        record = msgspec.json.decode(data, type=RoutingRecord)
    except msgspec.DecodeError as error:
        raise RecordRefused(
            f"The routing record in {where} is corrupt: {error}. It is left as it is; restore it, "
            "or move it away to start from an empty one."
        ) from error
    if record.model_name != model_name:
        raise RecordRefused(
            f"The routing record in {where} is of model {record.model_name!r}, "
            f"not of {model_name!r}."
        )
    return record


def names_of_files(directory: Path, prefix: str) -> frozenset[str]:
    """The models that have a file `<prefix><model_name>.json` in a directory.

    Raises:
        StoreUnavailable: the directory cannot be read.
    """
    try:
        found = [path.stem.removeprefix(prefix) for path in directory.glob(f"{prefix}*.json")]
    except OSError as error:
        raise StoreUnavailable(f"{directory} cannot be listed: {error}.") from error
    return frozenset(name for name in found if is_model_name(name))


class FileStores:
    """The file stores of one directory.

    Args:
        directory: where they lie; made when missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, model_name: str) -> FileStore:
        """The store of one model."""
        return FileStore(self._directory, model_name)

    async def names(self) -> frozenset[str]:
        """The models that have a routing record.

        Raises:
            StoreUnavailable: they cannot be listed.
        """
        return await asyncio.to_thread(names_of_files, self._directory, _PREFIX)

    async def aclose(self) -> None:
        """Nothing is held between calls."""


class FileStore:
    """The record as a JSON file, replaced atomically under a lock that processes share.

    Args:
        directory: where the file and its lock lie; made when missing.
        model_name: whose record it is.
    """

    def __init__(self, directory: Path, model_name: str) -> None:
        self._model_name = model_name
        self.path = directory / f"{_PREFIX}{model_name}.json"
        self._replicas_path = directory / "replicas" / model_name
        self._lock_path = directory / f"routing-{model_name}.lock"
        self._seen: tuple[tuple[int, int, int], RoutingRecord] | None = None
        self._presence = threading.Lock()
        self._left = False

    async def read(self) -> RoutingRecord:
        """The newest record; generation 0 when none was ever written.

        Raises:
            StoreUnavailable: it cannot be read.
            RecordRefused: it is corrupt, of a newer schema, or of another model.
        """
        return await asyncio.to_thread(self._read)

    async def compare_and_set(self, expected: int, record: RoutingRecord) -> None:
        """Write `record` durably if the stored generation is `expected`.

        Raises:
            GenerationConflict: it is not; nothing was written.
            StoreUnavailable: it cannot be written, or what is there cannot be read.
        """
        await asyncio.to_thread(self._compare_and_set, expected, record)

    async def follow(self, changed: Callable[[], None]) -> None:
        """A file announces nothing; reading it costs next to nothing."""

    async def beat(self, replica: ReplicaStatus, keep_seconds: float) -> None:  # noqa: ARG002 -- readers expire files
        """Note that a replica of this host lives: a file of its own, whose time tells when.

        Raises:
            StoreUnavailable: it cannot be noted.
        """
        await asyncio.to_thread(self._beat, replica)

    async def leave(self, replica_id: str) -> None:
        """Forget a replica that ends.

        Raises:
            StoreUnavailable: it cannot be forgotten now; it expires.
        """
        await asyncio.to_thread(self._leave, replica_id)

    async def replicas(self, keep_seconds: float) -> list[LiveReplica]:
        """The replicas of this host noted within the last `keep_seconds`; older ones are removed.

        Raises:
            StoreUnavailable: they cannot be listed, or not all of them can be read.
        """
        return await asyncio.to_thread(self._replicas, keep_seconds)

    def _leave(self, replica_id: str) -> None:
        # A beat that was cancelled may still be under way in its thread.
        with self._presence:
            self._left = True
            try:
                (self._replicas_path / f"{replica_id}.json").unlink(missing_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"The replica cannot be forgotten: {error}.") from error
            with contextlib.suppress(OSError):  # others are in it, or it is not there
                self._replicas_path.rmdir()

    def _beat(self, replica: ReplicaStatus) -> None:
        with self._presence:
            if not self._left:
                self._note(replica)

    def _note(self, replica: ReplicaStatus) -> None:
        path = self._replicas_path / f"{replica.id}.json"
        try:
            self._replicas_path.mkdir(parents=True, exist_ok=True)
            staged = path.with_suffix(".staged")
            staged.write_bytes(msgspec.json.encode(replica))
            staged.replace(path)
        except OSError as error:
            raise StoreUnavailable(f"The replica cannot be noted: {error}.") from error

    def _replicas(self, keep_seconds: float) -> list[LiveReplica]:
        found: list[LiveReplica] = []
        try:
            for path in self._replicas_path.glob("*.json"):
                with contextlib.suppress(FileNotFoundError):  # it left meanwhile
                    age = max(0.0, time.time() - path.stat().st_mtime)
                    if age > keep_seconds:
                        path.unlink()
                        continue
                    found.append(live(decode_replica(path.read_bytes(), str(path)), age))
        except OSError as error:
            raise StoreUnavailable(f"The replicas cannot be listed: {error}.") from error
        return found

    def _read(self) -> RoutingRecord:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                mark = (status.st_ino, status.st_mtime_ns, status.st_size)
                if self._seen is not None and self._seen[0] == mark:
                    return self._seen[1]
                data = file.read()
        except FileNotFoundError:
            return RoutingRecord(model_name=self._model_name)
        except OSError as error:
            raise StoreUnavailable(f"The routing record cannot be read: {error}.") from error
        record = decode_record(data, self._model_name, str(self.path))
        self._seen = (mark, record)
        return record

    def _compare_and_set(self, expected: int, record: RoutingRecord) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                stored = self._read().generation
                if stored != expected:
                    raise GenerationConflict(
                        f"The routing record is at generation {stored}, not at {expected}: "
                        "somebody changed it meanwhile."
                    )
                replace_durably(self.path, msgspec.json.format(msgspec.json.encode(record)))
        except OSError as error:
            raise StoreUnavailable(f"The routing record cannot be written: {error}.") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock that all processes of this host share.

        The kernel lets go of it when its holder dies, so nothing stale has to be broken.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        with self._lock_path.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(
                            f"The lock {self._lock_path} was held by another process for "
                            f"{_LOCK_SECONDS:g} s."
                        ) from error
                    time.sleep(0.002)
            yield
