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

from serving_gateway.contract import ACTIVE, LiveReplica, ReplicaIdentity, RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.record_files import RecordFiles, in_thread, replace_file
from serving_gateway.replication.records import (
    RecordOrError,
    require_record,
    require_unchanged,
    try_decode_record,
)
from serving_gateway.replication.replicas import ModelReport, decode_report, status_of, with_age

_LOCK_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.02
"""Between two looks at the files of models in a release."""
_IDLE_SECONDS: Final = 0.05
_Mark = tuple[int, int, int]
"""Inode, time and size of a file, which is unchanged if they are."""


class _Presence(msgspec.Struct, frozen=True):
    """What a replica writes about itself; the time of the file says when."""

    replica: ReplicaIdentity
    models: dict[str, ModelReport]


class FileStore(RecordFiles):
    """Routing records as JSON files, replaced atomically under locks that processes share."""

    _prefix = "routing-"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._replicas_path = directory / "replicas"
        self._seen: dict[str, tuple[_Mark | None, RecordOrError]] = {}
        self._in_release: frozenset[str] = frozenset()
        self._scan = threading.Lock()
        self._presence = threading.Lock()
        self._sent: Mapping[str, ModelReport] | None = None
        self._has_left = False

    @in_thread
    def read(self, model_name: str) -> RoutingRecord:
        """A model's record."""
        return require_record(self._look_up(model_name))

    @in_thread
    def read_all(self, hosted: Collection[str]) -> Mapping[str, RecordOrError]:
        """The records of all models; files that did not change are not read again."""
        with _as_unavailable("The routing records cannot be listed"):
            return {name: self._look_up(name) for name in self._names().union(hosted)}

    @in_thread
    def replace(self, expected: RoutingRecord, record: RoutingRecord) -> None:
        """Replace `expected` by `record` durably; `GenerationConflict` if another one is stored."""
        name = record.model_name
        with _as_unavailable("The routing record cannot be written"):
            self._directory.mkdir(parents=True, exist_ok=True)
            with _file_lock(self.path(name).with_suffix(".lock")):
                require_unchanged(self._look_up(name), expected)
                self._write(record)

    async def follow(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with each model in a release whose file was replaced.

        Files announce nothing, and looking at all of them often is costly; but the end of a release
        must not wait.
        """
        while True:
            if not self._in_release:
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            for name in await self._find_replaced():
                changed(name)
            await asyncio.sleep(_LOOK_SECONDS)

    @in_thread
    def _find_replaced(self) -> list[str]:
        """The models in a release whose file was replaced since it was read."""
        names: list[str] = []
        for name in [*self._in_release]:
            try:
                mark: _Mark | None = _mark(self.path(name).stat())
            except OSError:
                mark = None
            if (seen := self._seen.get(name)) is not None and seen[0] != mark:
                names.append(name)
        return names

    @in_thread
    def beat(
        self,
        replica: ReplicaIdentity,
        reports: Mapping[str, ModelReport],
        keep_seconds: float,  # noqa: ARG002 -- readers expire files
    ) -> None:
        """Record in a file of its own that a replica of this host lives."""
        path, reports = self._replicas_path / f"{replica.id}.json", dict(reports)
        with self._presence, _as_unavailable("The replica cannot be noted"):
            if self._has_left:
                return
            if reports == self._sent and path.exists():
                os.utime(path)
                return
            self._replicas_path.mkdir(parents=True, exist_ok=True)
            replace_file(path, msgspec.json.encode(_Presence(replica, reports)))
            self._sent = reports

    @in_thread
    def leave(self, replica_id: str) -> None:
        """Remove a replica that ends."""
        # A cancelled beat may still be running in its thread.
        with self._presence, _as_unavailable("The replica cannot be forgotten"):
            self._has_left = True
            (self._replicas_path / f"{replica_id}.json").unlink(missing_ok=True)

    @in_thread
    def replicas(self, model_name: str, keep_seconds: float) -> list[LiveReplica]:
        """The replicas that reported recently; the files of all others are removed."""
        alive: list[LiveReplica] = []
        with _as_unavailable("The replicas cannot be listed"):
            for path in self._replicas_path.glob("*.json"):
                with contextlib.suppress(FileNotFoundError):  # it left meanwhile
                    age = max(0.0, time.time() - path.stat().st_mtime)
                    if age > keep_seconds:
                        path.unlink()
                        continue
                    entry = decode_report(path.read_bytes(), _Presence, str(path))
                    alive.append(
                        with_age(status_of(entry.replica, entry.models.get(model_name)), age)
                    )
        return alive

    async def aclose(self) -> None:
        """Do nothing: nothing is held between calls."""

    def _look_up(self, model_name: str) -> RecordOrError:
        """A model's record, decoded again only when its file changed."""
        path = self.path(model_name)
        with self._scan:
            mark: _Mark | None
            data: bytes | None
            before, seen = self._seen.get(model_name, (None, None))
            try:
                if seen is not None and _mark(path.stat()) == before:
                    return seen
                with path.open("rb") as file:
                    mark, data = _mark(os.fstat(file.fileno())), file.read()
            except FileNotFoundError:
                mark, data = None, None
            except OSError as error:
                return StoreUnavailable(f"The routing record cannot be read: {error}.")
            stored = try_decode_record(data, model_name, str(path))
            if isinstance(seen, RoutingRecord) and seen == stored:
                stored = seen
            self._seen[model_name] = (mark, stored)
            release = stored.release if isinstance(stored, RoutingRecord) else None
            if release is not None and release.state in ACTIVE:
                self._in_release |= {model_name}
            else:
                self._in_release -= {model_name}
            return stored


def _mark(status: os.stat_result) -> _Mark:
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@contextlib.contextmanager
def _as_unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error}.") from error


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold a lock that all processes of this host share; it ends with its holder."""
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
