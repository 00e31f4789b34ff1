"""Features in a Feast online store (SQLite, Redis or another one that Feast reads).

Feast blocks, and takes seconds to import: it is imported and run in threads of its own, except
for reads of a plain Redis. Definitions are kept, and opened again in the background.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.blocking_reader import BlockingReader, DaemonThread
from serving_gateway.features.entity_rows import PlannedRead
from serving_gateway.features.feast_snapshot import FeastSnapshot, feast_failure, open_snapshot
from serving_gateway.features.redis_reader import READING, RedisReader
from serving_gateway.features.service_plan import ServicePlan
from serving_gateway.features.types import LookupRequest, ReadDone

log = logging.getLogger(__name__)

_REFRESH_SECONDS: Final = 60.0
"""After which definitions are opened again."""
_RETRY_SECONDS: Final = 1.0
"""Shortest time between two attempts to open what is not there."""
_TRIAL_SECONDS: Final = 2.0
"""Longest wait for the read that makes connections."""


class FeastStore:
    """A `FeatureStore` on Feast.

    Args:
        home: directory of the rendered feature_store.yaml; it need not be there yet.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().absolute()
        self._loader = DaemonThread("feature-definitions")
        self._blocking: dict[str, BlockingReader] = {}
        self._redis = RedisReader()
        self._wanted: set[str] = set()
        self._snapshot: FeastSnapshot | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_opening: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._problem = "The feature store is being opened."
        self._is_closed = False

    async def prepare(self, *services: str) -> None:
        """Open the store, look services up and read once, ahead of the first request's read.

        What cannot be opened now is tried again in the background, these services included.
        """
        self._wanted.update(services)
        if self._opening is not None:
            # It may have begun before these services were wanted.
            await self._opening
        if self._snapshot is None or not all(map(self._snapshot.has, services)):
            await self._open()

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Read features of distinct ids, as `FeatureStore.read`."""
        snapshot = self._snapshot
        if self._is_closed or snapshot is None or not snapshot.has(request.service, request.names):
            self._spawn(self._read_after_opening(request, done))
        else:
            self._read(snapshot, request, done)

    async def aclose(self) -> None:
        """Close connections; a thread that hangs is not waited for."""
        self._is_closed = True
        if self._next_opening is not None:
            self._next_opening.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loader.close()
        self._redis.close()
        for reader in self._blocking.values():
            reader.close()

    def _read(self, snapshot: FeastSnapshot, request: LookupRequest, done: ReadDone) -> None:
        planned = snapshot.plan(request.service).read(request)
        if all(read.command for read in planned.reads):
            self._redis.read(snapshot.config, planned, done)
        else:
            self._spawn(self._read_in_thread(snapshot, planned, done))

    async def _read_in_thread(
        self, snapshot: FeastSnapshot, planned: PlannedRead, done: ReadDone
    ) -> None:
        service = planned.request.service
        if service not in self._blocking:
            self._blocking[service] = BlockingReader(service)
        try:
            outcomes = await self._blocking[service].read(snapshot.config, planned)
        except Exception as error:
            done(feast_failure(READING, error))
        else:
            done(outcomes)

    async def _read_after_opening(self, request: LookupRequest, done: ReadDone) -> None:
        """Read by the newest definitions, and wait for them where they lack the features."""
        is_new = request.service not in self._wanted
        self._wanted.add(request.service)
        try:
            if self._is_closed:
                raise FeaturesUnavailable("The feature store is closed.")
            if self._snapshot is None:
                raise FeaturesUnavailable(self._problem)
            if self._opening is not None:
                await self._opening
            if is_new or asyncio.get_running_loop().time() >= self._retry_at:
                await self._open()
            self._read(self._snapshot, request, done)
        except GatewayError as error:
            done(error)

    def _open(self) -> asyncio.Task[None]:
        """Start to open the store again, unless that is under way."""
        if self._opening is None:
            self._opening = self._spawn(self._open_again())
        return self._opening

    async def _open_again(self) -> None:
        loop = asyncio.get_running_loop()
        wait = _RETRY_SECONDS
        try:
            wanted = sorted(self._wanted)
            await self._use(await self._loader.run(partial(open_snapshot, self._home, wanted)))
            wait = _REFRESH_SECONDS
        except FeaturesUnavailable as error:
            if error.message != self._problem:
                log.warning("the feature store cannot be opened", extra={"reason": error.message})
            self._problem = error.message
        finally:
            self._opening = None
            self._retry_at = loop.time() + _RETRY_SECONDS
            if self._next_opening is not None:
                self._next_opening.cancel()
            if not self._is_closed:
                self._next_opening = loop.call_later(wait, self._open)

    async def _use(self, snapshot: FeastSnapshot) -> None:
        """Read by these definitions, and by former ones where the registry cannot be read now."""
        if self._snapshot is None:
            # What Feast brought stays: without this each full collection of garbage would look
            # through it, and requests would wait for that.
            gc.freeze()
        else:
            for service, plan in snapshot.services.items():
                if type(plan) is FeaturesUnavailable:
                    snapshot.services[service] = self._snapshot.services.get(service, plan)
        self._snapshot = snapshot
        await self._warm_up(snapshot)
        if self._problem:
            log.info("the feature store is open", extra={"services": [*snapshot.services]})
        self._problem = ""

    async def _warm_up(self, snapshot: FeastSnapshot) -> None:
        """Read an entity that hardly exists, so that no request has to import and connect."""
        ended = asyncio.Event()
        for plan in snapshot.services.values():
            if isinstance(plan, ServicePlan) and (sample := plan.sample()).names:
                self._read(snapshot, sample, lambda _: ended.set())
                # A view that hangs must not keep others' definitions from being refreshed.
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _TRIAL_SECONDS)
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
