"""Follows the routing store in the background, so that no request has to.

One watcher for all models: an announcement leads to a read of that one record at once, and a bulk
read several times a second finds what was not announced. Models are handled side by side, each
under a lock of its own, so that none waits for another's Triton.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from serving_gateway.contract import RoutingRecord
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.losses import Losses
from serving_gateway.replication.records import merge
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.replication.store import RoutingStore, Stored
from serving_gateway.tasks import is_being_cancelled

log = logging.getLogger(__name__)

_LEAST_PAUSE_SECONDS: Final = 0.01
_AT_ONCE: Final = 16
"""Models that are handled at a time: each may have versions to ask Triton about."""


class RecordHolder(Protocol):
    """What routes one model."""

    @property
    def record(self) -> RoutingRecord:
        """The record that it routes by; generation 0 before there was one."""

    async def follow(
        self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None
    ) -> None:
        """Route by `record` when it is newer, or the present one is exactly `instead_of`."""


class HostedModels(Protocol):
    """The models of this replica."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are hosted."""

    def holder(self, model_name: str) -> RecordHolder | None:
        """What routes a model; None when it is not hosted."""

    async def host(self, record: RoutingRecord) -> None:
        """Host a model by a record that another replica, or this one in the past, wrote."""

    async def unhost(self, model_name: str) -> None:
        """Stop hosting a model that was removed."""


class Watcher:
    """Keeps this replica's records and the store's the same, by the rules of `records`.

    Args:
        store: where the records are kept.
        snapshots: where this host keeps copies.
        losses: reports what the store lost.
        interval: seconds between two bulk reads.
    """

    def __init__(
        self, store: RoutingStore, snapshots: Snapshots, losses: Losses, *, interval: float
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._losses = losses
        self._interval = interval
        self._problem: str | None = None
        self._problems: dict[str, str] = {}
        self._first_pass = asyncio.Event()
        self._woken = asyncio.Event()
        self._announced: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._settled: dict[str, tuple[Stored, RoutingRecord]] = {}
        self._unkept: dict[str, RoutingRecord] = {}
        self._to_keep = asyncio.Event()

    def problem(self, model_name: str) -> str | None:
        """What is wrong with the store, or with its record of a model, as last seen."""
        return self._problem or self._problems.get(model_name)

    @property
    def pending(self) -> str | None:
        """Why not every record was read and probed once; None when each was."""
        if self._first_pass.is_set():
            return None
        return self._problem or "the routing records are still being read and their versions probed"

    async def first_pass(self) -> None:
        """Wait until each record was read and probed once."""
        await self._first_pass.wait()

    def wake(self, model_name: str) -> None:
        """Read a model's record now; with an empty name, all of them."""
        if not model_name:
            self._woken.set()
        elif model_name not in self._queued:
            self._queued.add(model_name)
            self._announced.put_nowait(model_name)

    def keep(self, record: RoutingRecord) -> None:
        """Have a record that is routed by now copied to this host."""
        self._unkept[record.model_name] = record
        self._to_keep.set()

    async def listen(self) -> None:
        """Hear what other replicas announce, until cancelled."""
        await self._store.follow(self.wake)

    async def keep_snapshots(self) -> None:
        """Write the copies, one at a time, until cancelled."""
        while True:
            await self._to_keep.wait()
            self._to_keep.clear()
            while self._unkept:
                _, record = self._unkept.popitem()
                try:
                    await self._snapshots.keep(record)
                except StoreUnavailable as error:
                    # Not tried again: a full disk is no reason to write to it all the time.
                    log.warning("a snapshot was not kept", extra={"reason": error.message})

    async def run(self, models: HostedModels) -> None:
        """Follow the store until cancelled."""
        self._queued.clear()  # of a run that failed
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_repeatedly(models, tasks))
            while not is_being_cancelled():
                name = await self._announced.get()
                tasks.create_task(self._guarded(name, self._refresh(models, name)))

    async def _look_repeatedly(self, models: HostedModels, tasks: asyncio.TaskGroup) -> None:
        while not is_being_cancelled():
            self._woken.clear()
            await self.look(models, tasks)
            await asyncio.sleep(_LEAST_PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._woken.wait()

    async def look(self, models: HostedModels, tasks: asyncio.TaskGroup | None = None) -> None:
        """Read all records in bulk, and act on those that changed.

        Args:
            models: of this replica.
            tasks: where that goes on; without it, it is waited for, as on the first pass.
        """
        copies: Mapping[str, RoutingRecord] = {}
        if first := not self._first_pass.is_set():
            copies = await self._snapshots.read_all()
        try:
            found = await self._store.read_all({*models.names, *copies})
        except StoreUnavailable as error:
            self._note(error.message)
            if copies:
                await self._resume(models, copies)
            return
        self._note(None)
        if first:
            await self._take_up(models, found, copies)
        changed = [
            self._guarded(name, self._apply_locked(models, name, stored))
            for name, stored in found.items()
            if self._is_unsettled(models, name, stored)
        ]
        if first or tasks is None:
            await asyncio.gather(*changed)
            self._first_pass.set()
            return
        for one in changed:
            tasks.create_task(one)

    def _is_unsettled(self, models: HostedModels, name: str, stored: Stored) -> bool:
        lock = self._locks.get(name)
        if lock is not None and lock.locked():
            return False  # it is being acted on; the next look sees what came of it
        holder = models.holder(name)
        if holder is None:
            return not isinstance(stored, RoutingRecord) or (
                stored.generation > 0 and not stored.removed
            )
        settled = self._settled.get(name)
        return settled is None or settled[0] is not stored or settled[1] is not holder.record

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # One model's trouble is not the others'; the next look tries it again.
            log.exception("a routing record was not followed", extra={"model": name})

    async def _refresh(self, models: HostedModels, name: str) -> None:
        async with self._lock(name):
            self._queued.discard(name)
            try:
                stored: Stored = await self._store.read(name)
            except RecordRefused as error:
                stored = error
            except StoreUnavailable:  # the next look notes it
                return
            await self._apply(models, name, stored)
            # Requests that fail wake it too, and may do so all the time.
            await asyncio.sleep(_LEAST_PAUSE_SECONDS)

    async def _apply_locked(self, models: HostedModels, name: str, stored: Stored) -> None:
        async with self._room, self._lock(name):
            await self._apply(models, name, stored)

    async def _apply(self, models: HostedModels, name: str, stored: Stored) -> None:
        """Act on what the store has of a model: adopt it, restore it, host it or stop that."""
        holder = models.holder(name)
        if isinstance(stored, StoreUnavailable):
            if self._problems.get(name) != stored.message:
                log.error("a routing record is refused", extra={"reason": stored.message})
            self._problems[name] = stored.message
            if holder is None:
                await models.host(await self._copy(name))
        else:
            self._problems.pop(name, None)
            if holder is not None:
                if not await self._converge(holder, stored):
                    return  # the next look tries it again
            elif stored.generation > 0 and not stored.removed:
                await models.host(stored)
            if stored.removed and models.holder(name) is not None:
                await models.unhost(name)
        if (holder := models.holder(name)) is not None:
            self._settled[name] = (stored, holder.record)
        else:
            self._settled.pop(name, None)

    async def _converge(self, holder: RecordHolder, stored: RoutingRecord) -> bool:
        """Have the store and the holder agree; whether they do."""
        known = holder.record
        merged = merge(stored, known)
        if merged.write:
            try:
                await self._store.replace(stored, merged.record)
            except GenerationConflict:
                return False  # another replica was faster
            except StoreUnavailable as error:
                self._problems[known.model_name] = error.message
                return False
            self._losses.restore(stored, merged.record)
        if merged.dropped is not None:
            self._losses.drop(merged.dropped, merged.record)
        if merged.record is not known:
            await holder.follow(merged.record, instead_of=known)
            log.info(
                "adopted a routing record",
                extra={"model": known.model_name, "generation": holder.record.generation},
            )
        return True

    async def _take_up(
        self,
        models: HostedModels,
        found: Mapping[str, Stored],
        copies: Mapping[str, RoutingRecord],
    ) -> None:
        """Compare the copies of this host with the store, once.

        A model of which the store has no trace, not even that it was removed, was lost with it:
        it is hosted by its copy, and so written back. Otherwise the store is right.
        """
        lost: dict[str, RoutingRecord] = {}
        for name, copy in copies.items():
            stored = found[name]
            if isinstance(stored, StoreUnavailable):
                continue
            if stored.generation == 0:
                lost[name] = copy
            elif stored.removed:
                self.keep(stored)
            elif merge(stored, copy).record != stored or merge(stored, copy).dropped is not None:
                self._losses.drop(copy, stored)
        await self._host_all(models, lost)

    async def _resume(self, models: HostedModels, copies: Mapping[str, RoutingRecord]) -> None:
        """Route by the copies of this host; only Triton can say whether it serves them."""
        await self._host_all(models, copies)
        self._first_pass.set()
        log.warning(
            "started without the routing store, from snapshots", extra={"models": sorted(copies)}
        )

    async def _host_all(self, models: HostedModels, copies: Mapping[str, RoutingRecord]) -> None:
        async def host(copy: RoutingRecord) -> None:
            async with self._room:
                await models.host(copy)

        await asyncio.gather(*(self._guarded(name, host(copy)) for name, copy in copies.items()))

    async def _copy(self, name: str) -> RoutingRecord:
        """The copy of a model; without one a record that routes nothing."""
        try:
            found = await asyncio.to_thread(self._snapshots.read, name)
        except StoreUnavailable as error:
            log.warning("a snapshot cannot be used", extra={"reason": error.message})
            found = None
        return found or RoutingRecord(model_name=name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _note(self, problem: str | None) -> None:
        if problem != self._problem:
            if problem is None:
                log.info("the routing store is back")
            else:
                log.warning("the routing store cannot be used", extra={"reason": problem})
        self._problem = problem
