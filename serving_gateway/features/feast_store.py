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
from serving_gateway.features.blocking_reader import BlockingReader, DaemonThreads
from serving_gateway.features.feast_snapshot import FeastSnapshot, feast_failure, open_snapshot
from serving_gateway.features.redis_reader import READING, RedisReader
from serving_gateway.features.service_plan import PlannedRead, ServicePlan
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
        self._loader = DaemonThreads("feature-definitions")
        self._blocking = BlockingReader()
        self._redis = RedisReader()
        self._wanted: set[str] = set()
        self._snapshot: FeastSnapshot | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry_at = 0.0
        self._refresh_at = 0.0
        self._problem: str | None = None
        self._is_closed = False

    async def prepare(self, *services: str) -> None:
        """Open the store, look services up and read once, ahead of the first request's read.

        What cannot be opened now is tried again by reads and by `run`, these services included.
        """
        self._wanted.update(services)
        if self._opening is not None:
            # It may have begun before these services were wanted.
            await asyncio.shield(self._opening)
        known = {} if self._snapshot is None else self._snapshot.services
        if not known or not all(isinstance(known.get(one), ServicePlan) for one in services):
            await asyncio.shield(self._open())

    async def run(self) -> None:
        """Open the store as soon as it is there, so that no request has to fail first."""
        while self._snapshot is None:
            await asyncio.sleep(_RETRY_SECONDS)
            await asyncio.shield(self._open())

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Read features of distinct ids, as `FeatureStore.read`."""
        snapshot = self._snapshot
        plan = None if snapshot is None else snapshot.services.get(request.service)
        if (
            snapshot is None
            or self._is_closed
            or not isinstance(plan, ServicePlan)
            or not plan.has(request.names)
        ):
            self._spawn(self._read_after_opening(request, done))
            return
        if asyncio.get_running_loop().time() >= self._refresh_at:
            self._open()
        self._read(snapshot, plan, request, done)

    async def aclose(self) -> None:
        """Close connections; a thread that hangs is not waited for."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loader.close()
        self._blocking.close()
        self._redis.close()

    def _read(
        self, snapshot: FeastSnapshot, plan: ServicePlan, request: LookupRequest, done: ReadDone
    ) -> None:
        planned = plan.read(request)
        if plan.has_layouts:
            self._redis.read(snapshot.config, planned, done)
        else:
            self._spawn(self._read_in_thread(snapshot, planned, done))

    async def _read_in_thread(
        self, snapshot: FeastSnapshot, planned: PlannedRead, done: ReadDone
    ) -> None:
        try:
            outcomes = await self._blocking.read(snapshot.config, planned)
        except Exception as error:
            done(feast_failure(READING, error))
        else:
            done(outcomes)

    async def _read_after_opening(self, request: LookupRequest, done: ReadDone) -> None:
        """Read by the newest definitions, and wait for them where they lack the features."""
        try:
            snapshot = await self._snapshot_with(request.service)
            self._read(snapshot, snapshot.plan(request.service), request, done)
        except GatewayError as error:
            done(error)

    async def _snapshot_with(self, service: str) -> FeastSnapshot:
        """The newest definitions, once the service was looked up.

        Raises:
            FeaturesUnavailable: there are none yet, or no more.
        """
        if self._is_closed:
            raise FeaturesUnavailable("The feature store is closed.")
        is_new = service not in self._wanted
        self._wanted.add(service)
        now = asyncio.get_running_loop().time
        if self._snapshot is None:
            if now() >= self._retry_at:
                self._open()
            raise FeaturesUnavailable(self._problem or "The feature store is being opened.")
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if is_new or now() >= self._retry_at:
            await asyncio.shield(self._open())
        return self._snapshot

    def _open(self) -> asyncio.Task[None]:
        """Start to open the store again, unless that is under way."""
        if self._opening is None:
            self._opening = self._spawn(self._open_again())
        return self._opening

    async def _open_again(self) -> None:
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
            now = asyncio.get_running_loop().time()
            self._retry_at, self._refresh_at = now + _RETRY_SECONDS, now + wait

    async def _use(self, snapshot: FeastSnapshot) -> None:
        is_news = self._snapshot is None or self._problem is not None
        if self._snapshot is not None:
            snapshot.keep_plans_of(self._snapshot)
        else:
            # What Feast brought stays: without this each full collection of garbage would look
            # through it, and requests would wait for that.
            gc.freeze()
        self._snapshot = snapshot
        self._problem = None
        await self._warm_up(snapshot)
        if is_news:
            log.info("the feature store is open", extra={"services": [*snapshot.services]})

    async def _warm_up(self, snapshot: FeastSnapshot) -> None:
        """Read an entity that hardly exists, so that no request has to import and connect."""
        plans = [one for one in snapshot.services.values() if isinstance(one, ServicePlan)]
        if not plans:
            return
        ended = asyncio.Event()
        self._read(snapshot, plans[0], plans[0].sample(), lambda _: ended.set())
        # A view that hangs must not keep the definitions of others from being refreshed.
        with suppress(TimeoutError):
            async with asyncio.timeout(_TRIAL_SECONDS):
                await ended.wait()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
