"""Follows the routing store and Triton in the background, so that no request has to.

Two loops, because neither may wait for the other: a store that hangs must not keep anybody from
noticing that Triton changed, and the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from serving_gateway.contract import RoutingRecord
from serving_gateway.errors import GenerationConflict, StoreUnavailable
from serving_gateway.inference.router import Router
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.snapshot import Snapshot
from serving_gateway.replication.store import RoutingStore
from serving_gateway.tasks import is_being_cancelled

log = logging.getLogger(__name__)

_BREATH_SECONDS: Final = 0.01
"""Least pause between two looks, however often somebody kicks."""


class Watcher:
    """Looks at store and Triton every `interval` seconds, and at once when kicked."""

    def __init__(
        self,
        router: Router,
        store: RoutingStore,
        snapshot: Snapshot,
        presence: Heartbeat,
        *,
        interval: float,
    ) -> None:
        self._router = router
        self._store = store
        self._snapshot = snapshot
        self._presence = presence
        self._interval = interval
        self._store_kicked = asyncio.Event()
        self._triton_kicked = asyncio.Event()
        self._store_problem: str | None = None
        self._kept_generation = 0
        self._was_ready: bool | None = None
        router.on_adopt = self._store_kicked.set

    def wake(self) -> None:
        """Look now: something suggests that what is known is out of date."""
        self._store_kicked.set()
        self._triton_kicked.set()

    async def start(self) -> None:
        """Look once before the first request; without the store, resume from the snapshot."""
        await self.follow_store()
        if self._store_problem is not None:
            await self._resume()
        await self._look_at_triton()

    async def run(self) -> None:
        """Follow until cancelled. Whatever one look meets, the next one is made."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._repeat(self._look_at_store, self._store_kicked))
            loops.create_task(self._repeat(self._look_at_triton, self._triton_kicked))
            loops.create_task(self._store.follow(self._store_kicked.set))

    async def _repeat(self, look: Callable[[], Awaitable[None]], kicked: asyncio.Event) -> None:
        while not is_being_cancelled():
            kicked.clear()
            try:
                await look()
            except Exception:
                # A bug in here must not end the only thing that lets a replica recover.
                log.exception("the watcher failed; it goes on")
            await asyncio.sleep(_BREATH_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await kicked.wait()

    async def _look_at_triton(self) -> None:
        await self._router.probe()
        self._report()

    async def _look_at_store(self) -> None:
        await self.follow_store()
        with contextlib.suppress(StoreUnavailable):  # reading the store has told so
            await self._presence.beat()
        await self._keep()
        self._report()

    async def follow_store(self) -> None:
        """Adopt the stored record when it is newer; keep the last good one otherwise (I9)."""
        router = self._router
        try:
            record = await self._store.read()
            known = router.table.record
            if record.generation < known.generation:
                await self._restore(record.generation, known)
        except StoreUnavailable as error:
            self._note(error.message)
            if router.table.record.generation == 0:
                router.record_problem = error.message
            return
        self._note(None)
        router.record_problem = None
        if record.generation > known.generation:
            await router.follow(record)
            log.info(
                "adopted a routing record",
                extra={"generation": record.generation, "routed": router.still_served()},
            )

    async def _restore(self, stored: int, known: RoutingRecord) -> None:
        """Give back to a store that lost content what is in effect: the newest record wins (I7).

        Raises:
            StoreUnavailable: it cannot be written.
        """
        with contextlib.suppress(GenerationConflict):  # somebody else was faster
            await self._store.compare_and_set(stored, known)
            log.warning(
                "the routing store had lost what is in effect; it was written back",
                extra={"stored": stored, "generation": known.generation},
            )

    async def _resume(self) -> None:
        """Route by the snapshot; whether that is served is Triton's to say."""
        try:
            record = await self._snapshot.read()
        except StoreUnavailable as error:
            log.warning("the snapshot cannot be used", extra={"reason": error.message})
            return
        if record is None or record.generation <= self._router.table.record.generation:
            return
        self._kept_generation = record.generation
        await self._router.follow(record)
        log.warning(
            "started without the routing store, from the snapshot",
            extra={"generation": record.generation, "routed": self._router.still_served()},
        )

    async def _keep(self) -> None:
        record = self._router.table.record
        if record.generation == self._kept_generation:
            return
        try:
            await self._snapshot.keep(record)
        except StoreUnavailable as error:
            log.warning("the snapshot was not kept", extra={"reason": error.message})
        # Tried once per generation: a full disk is no reason to write to it all the time.
        self._kept_generation = record.generation

    @property
    def store_problem(self) -> str | None:
        """What is wrong with the store, as last seen."""
        return self._store_problem

    def _note(self, problem: str | None) -> None:
        if problem != self._store_problem:
            if problem is None:
                log.info("the routing store is back")
            else:
                log.warning("the routing store is in trouble", extra={"reason": problem})
        self._store_problem = problem

    def _report(self) -> None:
        now = self._router.readiness()
        if now.ready != self._was_ready:
            log.info("readiness changed", extra={"ready": now.ready, "reasons": now.reasons})
            self._store_kicked.set()  # to have the other replicas know at once
        self._was_ready = now.ready
