"""Routing records as files: for the replicas of one host."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from serving_gateway.contract import LiveReplica, ReplicaIdentity, RoutingRecord, is_model_name
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.atomic_file import replace_durably
from serving_gateway.replication.records import decode_record, encode_record
from serving_gateway.replication.replicas import ModelReport, decoded, live, status_of
from serving_gateway.replication.store import Stored

_LOCK_SECONDS: Final = 2.0
_PREFIX: Final = "routing-"
_Mark = tuple[int, int, int]


class _Presence(msgspec.Struct, frozen=True):
    """What a replica writes about itself."""

    replica: ReplicaIdentity
    models: dict[str, ModelReport]


class FileStore:
    """Records as JSON files, replaced atomically under locks that processes share.

    Args:
        directory: where the files and their locks lie; made when missing.

    Errors are those of `RoutingStore`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._replicas_path = directory / "replicas"
        self._seen: dict[str, tuple[_Mark, Stored]] = {}
        self._scan = threading.Lock()
        self._presence = threading.Lock()
        self._sent: Mapping[str, ModelReport] | None = None
        self._left = False

    def path(self, model_name: str) -> Path:
        """The file of a model's record."""
        return self._directory / f"{_PREFIX}{model_name}.json"

    async def read(self, model_name: str) -> RoutingRecord:
        """A model's record; generation 0 when none was ever written."""
        return await asyncio.to_thread(self._read, model_name)

    async def read_all(self, hosted: Collection[str]) -> Mapping[str, Stored]:
        """The records of all models; files that did not change are not read again."""
        return await asyncio.to_thread(self._read_all, tuple(hosted))

    async def replace(self, expected: RoutingRecord, record: RoutingRecord) -> None:
        """Write `record` durably in the place of exactly `expected`."""
        await asyncio.to_thread(self._replace, expected, record)

    async def follow(self, changed: Callable[[str], None]) -> None:  # noqa: ARG002 -- see below
        """A file announces nothing; the marks of all files are cheap to compare."""
        await asyncio.Event().wait()

    async def beat(
        self,
        replica: ReplicaIdentity,
        reports: Mapping[str, ModelReport],
        keep_seconds: float,  # noqa: ARG002 -- readers expire files
    ) -> None:
        """Note that a replica of this host lives: a file of its own, whose time says when."""
        await asyncio.to_thread(self._beat, replica, dict(reports))

    async def leave(self, replica_id: str) -> None:
        """Forget a replica that ends."""
        await asyncio.to_thread(self._leave, replica_id)

    async def replicas(self, model_name: str, keep_seconds: float) -> list[LiveReplica]:
        """The replicas of this host that reported lately; the files of others are removed."""
        return await asyncio.to_thread(self._replicas, model_name, keep_seconds)

    async def aclose(self) -> None:
        """Nothing is held between calls."""

    def _leave(self, replica_id: str) -> None:
        # A beat that was cancelled may still be under way in its thread.
        with self._presence:
            self._left = True
            try:
                (self._replicas_path / f"{replica_id}.json").unlink(missing_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"The replica cannot be forgotten: {error}.") from error

    def _beat(self, replica: ReplicaIdentity, reports: dict[str, ModelReport]) -> None:
        path = self._replicas_path / f"{replica.id}.json"
        with self._presence:
            if self._left:
                return
            try:
                if reports == self._sent and path.exists():
                    os.utime(path)
                    return
                self._replicas_path.mkdir(parents=True, exist_ok=True)
                staged = path.with_suffix(".staged")
                staged.write_bytes(msgspec.json.encode(_Presence(replica, reports)))
                staged.replace(path)
            except OSError as error:
                raise StoreUnavailable(f"The replica cannot be noted: {error}.") from error
            self._sent = reports

    def _replicas(self, model_name: str, keep_seconds: float) -> list[LiveReplica]:
        found: list[LiveReplica] = []
        try:
            for path in self._replicas_path.glob("*.json"):
                with contextlib.suppress(FileNotFoundError):  # it left meanwhile
                    age = max(0.0, time.time() - path.stat().st_mtime)
                    if age > keep_seconds:
                        path.unlink()
                        continue
                    one = decoded(path.read_bytes(), _Presence, str(path))
                    found.append(live(status_of(one.replica, one.models.get(model_name)), age))
        except OSError as error:
            raise StoreUnavailable(f"The replicas cannot be listed: {error}.") from error
        return found

    def _read(self, model_name: str) -> RoutingRecord:
        found = self._looked_up(model_name)
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    def _read_all(self, hosted: tuple[str, ...]) -> dict[str, Stored]:
        try:
            names = [
                entry.name.removeprefix(_PREFIX).removesuffix(".json")
                for entry in os.scandir(self._directory)
                if entry.name.startswith(_PREFIX) and entry.name.endswith(".json")
            ]
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise StoreUnavailable(f"{self._directory} cannot be listed: {error}.") from error
        wanted = {name for name in names if is_model_name(name)}.union(hosted)
        return {name: self._looked_up(name) for name in sorted(wanted)}

    def _looked_up(self, model_name: str) -> Stored:
        """A model's record, decoded again only when its file changed."""
        path = self.path(model_name)
        with self._scan:
            _, seen = self._seen.get(model_name, ((0, 0, 0), None))
            try:
                mark = _mark(path.stat())
                if seen is not None and self._seen[model_name][0] == mark:
                    return seen
                with path.open("rb") as file:
                    mark = _mark(os.fstat(file.fileno()))
                    data = file.read()
            except FileNotFoundError:
                mark, found = (0, 0, 0), RoutingRecord(model_name=model_name)
            except OSError as error:
                return StoreUnavailable(f"The routing record cannot be read: {error}.")
            else:
                try:
                    found = decode_record(data, model_name, str(path))
                except RecordRefused as error:
                    self._seen[model_name] = (mark, error)
                    return error
            if isinstance(seen, RoutingRecord) and seen == found:
                found = seen
            self._seen[model_name] = (mark, found)
            return found

    def _replace(self, expected: RoutingRecord, record: RoutingRecord) -> None:
        name = record.model_name
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._locked(name):
                stored = self._read(name)
                if stored != expected:
                    raise GenerationConflict(
                        f"The routing record is at generation {stored.generation} and was changed "
                        f"since it was read at generation {expected.generation}."
                    )
                replace_durably(self.path(name), msgspec.json.format(encode_record(record)))
        except OSError as error:
            raise StoreUnavailable(f"The routing record cannot be written: {error}.") from error

    @contextlib.contextmanager
    def _locked(self, model_name: str) -> Iterator[None]:
        """Hold the lock of a model that all processes of this host share.

        The kernel releases it when its holder dies, so no stale lock has to be broken.
        """
        path = self._directory / f"{_PREFIX}{model_name}.lock"
        deadline = time.monotonic() + _LOCK_SECONDS
        with path.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(
                            f"The lock {path} was held by another process for {_LOCK_SECONDS:g} s."
                        ) from error
                    time.sleep(0.002)
            yield


def _mark(status: os.stat_result) -> _Mark:
    return (status.st_ino, status.st_mtime_ns, status.st_size)
