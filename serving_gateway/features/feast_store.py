"""Features in a Feast online store (SQLite, Redis or another one that Feast reads).

Feast blocks, and takes seconds to import: it is imported and run in threads of its own, except for
reads of a plain Redis. Definitions are cached, and reopened in the background.
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
from serving_gateway.features.feast_definitions import Plans, open_plans
from serving_gateway.features.redis_reader import RedisReader
from serving_gateway.features.service_plan import ServicePlan
from serving_gateway.features.types import KeyMismatch, LookupRequest, ReadDone, ServiceUnusable

log = logging.getLogger(__name__)

_REFRESH_SECONDS: Final = 60.0
"""Time after which definitions are reopened."""
_RETRY_SECONDS: Final = 1.0
"""Shortest time between two attempts to open a missing store."""
_TRIAL_SECONDS: Final = 2.0
"""Longest wait for the read that opens connections."""


class FeastStore:
    """A `FeatureStore` on the feature_store.yaml in `home`, which need not exist yet."""

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().absolute()
        self._loader = DaemonThread("feature-definitions")
        self._blocking: dict[str, BlockingReader] = {}
        self._redis = RedisReader()
        self._wanted: set[str] = set()
        self._plans: Plans | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_opening: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._problem = "The feature store is being opened."
        self._is_closed = False

    async def prepare(self, *services: str) -> None:
        """Open the store, look services up and read once; failures are retried automatically."""
        self._wanted.update(services)
        if self._opening is not None:
            # It may have begun before these services were wanted.
            await self._opening
        plans = self._plans
        if plans is None or not all(isinstance(plans.get(name), ServicePlan) for name in services):
            await self._open()

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Read features of distinct ids, like `FeatureStore.read`."""
        plan = self._plans.get(request.service) if self._plans else None
        if not (isinstance(plan, ServicePlan) and self._begin(plan, request, done)):
            self._spawn(self._read_after_opening(request, done))

    async def aclose(self) -> None:
        """Close connections, without waiting for a thread that hangs."""
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

    def _begin(self, plan: ServicePlan, request: LookupRequest, done: ReadDone) -> bool:
        """Begin to read; False if newer definitions may have what this plan lacks."""
        if self._is_closed:
            return False
        try:
            self._read(plan, request, done)
        except KeyMismatch as error:
            asyncio.get_running_loop().call_soon(done, error)
        except ServiceUnusable:
            return False
        return True

    def _read(self, plan: ServicePlan, request: LookupRequest, done: ReadDone) -> None:
        planned = plan.read(request)
        if planned.is_empty:
            asyncio.get_running_loop().call_soon(done, planned.empty_outcomes())
        elif not planned.is_blocking:
            self._redis.read(planned, done)
        else:
            if request.service not in self._blocking:
                self._blocking[request.service] = BlockingReader(request.service)
            self._blocking[request.service].read(planned, done)

    async def _read_after_opening(self, request: LookupRequest, done: ReadDone) -> None:
        """Read by the newest definitions, waiting for them if they lack the features."""
        is_new = request.service not in self._wanted
        self._wanted.add(request.service)
        try:
            plan = await self._newest_plan(request.service, is_new=is_new)
            self._read(plan, request, done)
        except GatewayError as error:
            done(error)

    async def _newest_plan(self, service: str, *, is_new: bool) -> ServicePlan:
        if self._is_closed:
            raise FeaturesUnavailable("The feature store is closed.")
        if self._plans is None:
            if self._next_opening is None:
                self._open()
            raise FeaturesUnavailable(self._problem)
        if self._opening is not None:
            await self._opening
        if is_new or asyncio.get_running_loop().time() >= self._retry_at:
            await self._open()
        plan = self._plans.get(service)
        if isinstance(plan, ServicePlan):
            return plan
        # A copy: an error that is raised repeatedly would accumulate tracebacks.
        unknown = ServiceUnusable(f"Feature service {service} was not looked up yet.")
        raise type(plan)(plan.message) if plan else unknown

    def _open(self) -> asyncio.Task[None]:
        """Start to reopen the store, unless that is under way."""
        if self._opening is None:
            self._opening = self._spawn(self._open_again())
        return self._opening

    async def _open_again(self) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Queue[Plans | GatewayError] = asyncio.Queue()
        self._loader.submit(
            partial(open_plans, self._home, sorted(self._wanted)), opened.put_nowait
        )
        wait = _RETRY_SECONDS
        try:
            plans = await opened.get()
            if not isinstance(plans, GatewayError):
                await self._use(plans)
                wait = _REFRESH_SECONDS
            elif plans.message != self._problem:
                log.warning("the feature store cannot be opened", extra={"reason": plans.message})
                self._problem = plans.message
        finally:
            self._opening = None
            self._retry_at = loop.time() + _RETRY_SECONDS
            if self._next_opening is not None:
                self._next_opening.cancel()
            if not self._is_closed:
                self._next_opening = loop.call_later(wait, self._open)

    async def _use(self, plans: Plans) -> None:
        """Use these plans, and former ones where the registry cannot be read now."""
        if self._plans is None:
            # What Feast loaded stays: without this, each full garbage collection would traverse it
            # while requests wait.
            gc.freeze()
        else:
            for service, plan in plans.items():
                if type(plan) is FeaturesUnavailable:
                    plans[service] = self._plans.get(service, plan)
        self._plans = plans
        await self._warm_up(plans)
        if self._problem:
            log.info("the feature store is open", extra={"services": [*plans]})
        self._problem = ""

    async def _warm_up(self, plans: Plans) -> None:
        """Read an entity that hardly exists, so that no request has to import and connect."""
        done = asyncio.Event()
        for plan in plans.values():
            if isinstance(plan, ServicePlan) and (sample := plan.sample()).names:
                self._read(plan, sample, lambda _: done.set())
                # A hanging view must not keep other definitions from being refreshed.
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), _TRIAL_SECONDS)
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
