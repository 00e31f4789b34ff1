"""Follows the routing store in the background, so that no request has to.

One watcher for all models: an announcement leads to a read of that one record at once, and a bulk
read several times a second finds what was not announced. Models are handled side by side, each
under a lock of its own, so that none waits for another's Triton.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from serving_gateway.contract import RoutingRecord
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.records import RecordOrError, merge
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.replication.store import RoutingStore
from serving_gateway.tasks import is_being_cancelled, wait_at_most

log = logging.getLogger(__name__)

_LEAST_PAUSE_SECONDS: Final = 0.01
_AT_ONCE: Final = 16
"""Models that are handled at a time: each may have versions to ask Triton about."""


class HostedModels(Protocol):
    """The models of this replica."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the hosted models."""

    def record(self, model_name: str) -> RoutingRecord | None:
        """The record that a model is routed by, generation 0 before the first; None: not hosted."""

    async def host(self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None) -> None:
        """Route by `record` when it is newer, or the present one is exactly `instead_of`."""

    async def unhost(self, model_name: str) -> None:
        """Stop hosting a model that was removed."""


@dataclass(eq=False)
class Watcher:
    """Keeps records here and in the store in sync, by a bulk read every `interval` seconds."""

    store: RoutingStore
    snapshots: Snapshots
    losses: LossReporter
    interval: float

    def __post_init__(self) -> None:
        self._problem: str | None = None
        self._problems: dict[str, str] = {}
        self._first_pass = asyncio.Event()
        self._woken = asyncio.Event()
        self._announced: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._settled: dict[str, tuple[RecordOrError, RoutingRecord]] = {}
        self._unsaved: dict[str, RoutingRecord] = {}
        self._save_requested = asyncio.Event()

    def problem(self, model_name: str) -> str | None:
        """What is wrong with the store, or with its record of a model, as last seen."""
        return self._problem or self._problems.get(model_name)

    @property
    def pending(self) -> str | None:
        """Why some records have not been read and probed yet; None when all have."""
        if self._first_pass.is_set():
            return None
        if self._problem is None:
            return "the routing records are still being read and their versions probed"
        return (
            "what is in production is not known here: the routing store was not read since the "
            f"start, and there is no snapshot to resume from. {self._problem} The replica becomes "
            "ready by itself once the store answers"
        )

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
        """Have the record that is now routed by copied to this host."""
        self._unsaved[record.model_name] = record
        self._save_requested.set()

    async def listen(self) -> None:
        """Receive the announcements of other replicas, until cancelled."""
        await self.store.follow(self.wake)

    async def keep_snapshots(self) -> None:
        """Write the copies, one at a time, until cancelled."""
        while True:
            await self._save_requested.wait()
            self._save_requested.clear()
            while self._unsaved:
                _, record = self._unsaved.popitem()
                try:
                    await self.snapshots.keep(record)
                except StoreUnavailable as error:
                    # Not retried: a full disk should not be written to all the time.
                    log.warning("a snapshot was not kept", extra={"reason": error.message})

    async def run(self, models: HostedModels) -> None:
        """Follow the store until cancelled."""
        self._queued.clear()  # left by a run that failed
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll(models, tasks))
            while not is_being_cancelled():
                name = await self._announced.get()
                tasks.create_task(self._guarded(name, self._refresh(models, name)))

    async def _poll(self, models: HostedModels, tasks: asyncio.TaskGroup) -> None:
        while not is_being_cancelled():
            self._woken.clear()
            await self.look(models, tasks)
            await asyncio.sleep(_LEAST_PAUSE_SECONDS)
            await wait_at_most(self._woken, self.interval)

    async def look(self, models: HostedModels, tasks: asyncio.TaskGroup | None = None) -> None:
        """Read all records, and act on those that changed: in `tasks`, except in the first pass."""
        first = not self._first_pass.is_set()
        copies = await self.snapshots.read_all() if first else {}
        try:
            records = await self.store.read_all({*models.names, *copies})
        except StoreUnavailable as error:
            self._note(error.message)
            if copies:
                await self._host_all(models, copies)
                self._first_pass.set()
                log.warning(
                    "started without the routing store, from snapshots",
                    extra={"models": sorted(copies)},
                )
            return
        self._note(None)
        if first:
            await self._host_all(models, self._find_lost(records, copies))
        for name, stored in records.items():
            # A model for which there was no room here is not hosted elsewhere any more.
            is_removed = isinstance(stored, RoutingRecord) and stored.removed
            if is_removed and models.record(name) is None:
                await models.unhost(name)
        jobs = [
            self._guarded(name, self._apply_locked(models, name, stored))
            for name, stored in records.items()
            if self._is_unsettled(models, name, stored)
        ]
        if not first and tasks is not None:
            for work in jobs:
                tasks.create_task(work)
            return
        await asyncio.gather(*jobs)
        self._first_pass.set()

    def _find_lost(
        self, records: Mapping[str, RecordOrError], copies: Mapping[str, RoutingRecord]
    ) -> Mapping[str, RoutingRecord]:
        """The copies of which the store has no trace, not even that the model was removed.

        The store lost them; a model hosted by its copy is written back. For the others the store is
        right, and what it dropped is reported.
        """
        lost: dict[str, RoutingRecord] = {}
        for name, copy in copies.items():
            stored = records[name]
            if isinstance(stored, StoreUnavailable):
                continue
            merged = merge(stored, copy)
            if stored.generation == 0:
                lost[name] = copy
            elif stored.removed:
                self.keep(stored)
            elif merged.record != stored or merged.dropped is not None:
                self.losses.report_drop(copy, stored)
        return lost

    async def _host_all(self, models: HostedModels, copies: Mapping[str, RoutingRecord]) -> None:
        async def host(copy: RoutingRecord) -> None:
            async with self._room:
                await models.host(copy)

        await asyncio.gather(*(self._guarded(name, host(copy)) for name, copy in copies.items()))

    def _is_unsettled(self, models: HostedModels, name: str, stored: RecordOrError) -> bool:
        lock = self._locks.get(name)
        if lock is not None and lock.locked():
            return False  # it is being handled; the next look sees the result
        known = models.record(name)
        if known is None:
            return isinstance(stored, StoreUnavailable) or stored.is_routed
        settled = self._settled.get(name)
        return settled is None or settled[0] is not stored or settled[1] is not known

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # One model's failure must not affect the others; the next look retries it.
            log.exception("a routing record was not followed", extra={"model": name})

    async def _refresh(self, models: HostedModels, name: str) -> None:
        async with self._lock(name):
            self._queued.discard(name)
            try:
                stored: RecordOrError = await self.store.read(name)
            except RecordRefused as error:
                stored = error
            except StoreUnavailable:  # the next look notes it
                return
            await self._apply(models, name, stored)
            # Failing requests wake it too, and may do so all the time.
            await asyncio.sleep(_LEAST_PAUSE_SECONDS)

    async def _apply_locked(self, models: HostedModels, name: str, stored: RecordOrError) -> None:
        async with self._room, self._lock(name):
            await self._apply(models, name, stored)

    async def _apply(self, models: HostedModels, name: str, stored: RecordOrError) -> None:
        """Act on the store's record of a model: adopt it, restore it, host it or unhost it."""
        known = models.record(name)
        if isinstance(stored, StoreUnavailable):
            if self._problems.get(name) != stored.message:
                log.error("a routing record is refused", extra={"reason": stored.message})
            self._problems[name] = stored.message
            if known is None:
                copy = await self.snapshots.read(name)
                await models.host(copy or RoutingRecord(model_name=name))
        else:
            self._problems.pop(name, None)
            if known is None and stored.is_routed:
                await models.host(stored)
            elif known is not None and not await self._converge(models, known, stored):
                return  # the next look retries it
            if stored.removed:
                await models.unhost(name)
        if (known := models.record(name)) is not None:
            self._settled[name] = (stored, known)
        else:
            self._settled.pop(name, None)

    async def _converge(
        self, models: HostedModels, known: RoutingRecord, stored: RoutingRecord
    ) -> bool:
        """Make the store and this replica agree; return whether they do."""
        merged = merge(stored, known)
        if merged.write:
            try:
                await self.store.replace(stored, merged.record)
            except GenerationConflict:
                return False  # another replica was faster
            except StoreUnavailable as error:
                self._problems[known.model_name] = error.message
                return False
            self.losses.report_restore(stored, merged.record)
        if merged.dropped is not None:
            self.losses.report_drop(merged.dropped, merged.record)
        if merged.record is not known:
            await models.host(merged.record, instead_of=known)
            log.info(
                "adopted a routing record",
                extra={"model": known.model_name, "generation": merged.record.generation},
            )
        return True

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            log.warning("the routing store cannot be used", extra={"reason": problem})
        elif problem is None and self._problem is not None:
            log.info("the routing store is back")
        self._problem = problem
