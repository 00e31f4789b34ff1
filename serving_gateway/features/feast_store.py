"""Features in a Feast online store (SQLite, Redis or another one that Feast reads).

Feast blocks, and takes seconds to import: it is imported and run in threads of its own, except
for reads of a plain Redis. Definitions are kept, and opened again in the background.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.blocking_reader import BlockingReader
from serving_gateway.features.daemon_threads import DaemonThreads
from serving_gateway.features.feast_snapshot import FeastSnapshot, open_snapshot
from serving_gateway.features.redis_reader import RedisReader
from serving_gateway.features.types import EntityOutcome, LookupRequest, ReadDone

log = logging.getLogger(__name__)

_TRIAL_SECONDS: Final = 2.0
"""Longest wait for the read that makes connections."""


class FeastStore:
    """A `FeatureStore` on Feast.

    Args:
        home: directory of the rendered feature_store.yaml; it need not be there yet.
        socket_seconds: limit for one answer of Redis, so that one that hangs is disconnected. A
            limit in the connection string has priority.
        threads_per_service: most blocking reads of one feature service at a time.
        refresh_seconds: after which definitions are opened again.
        retry_seconds: shortest time between two attempts to open what is not there.
    """

    def __init__(
        self,
        home: Path,
        *,
        socket_seconds: float = 0.5,
        threads_per_service: int = 2,
        refresh_seconds: float = 60.0,
        retry_seconds: float = 1.0,
    ) -> None:
        self._home = home.expanduser().absolute()
        self._socket_seconds = socket_seconds
        self._refresh_seconds = refresh_seconds
        self._retry_seconds = retry_seconds
        self._loader = DaemonThreads("feature-definitions", total=1, per_group=1)
        self._blocking = BlockingReader(threads_per_service)
        self._redis = RedisReader(socket_seconds)
        self._wanted: set[str] = set()
        self._snapshot: FeastSnapshot | None = None
        self._opening: asyncio.Task[None] | None = None
        self._late_reads: set[asyncio.Task[None]] = set()
        self._next_attempt = 0.0
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
        if self._snapshot is None or not all(map(self._snapshot.is_readable, services)):
            await asyncio.shield(self._open())

    async def run(self) -> None:
        """Open the store as soon as it is there, so that no request has to fail first."""
        while self._snapshot is None:
            await asyncio.sleep(self._retry_seconds)
            await asyncio.shield(self._open())

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Read features of distinct ids, as `FeatureStore.read`."""
        loop = asyncio.get_running_loop()
        if self._is_closed:
            loop.call_soon(done, FeaturesUnavailable("The feature store is closed."))
            return
        snapshot = self._snapshot
        if snapshot is None or not snapshot.has(request.service, request.names):
            self._keep(self._read_after_opening(request, done))
            return
        if loop.time() >= self._refresh_at:
            self._open()
        try:
            self._read(snapshot, request, done)
        except GatewayError as error:
            loop.call_soon(done, error)

    async def aclose(self) -> None:
        """Close connections; a thread that hangs is not waited for."""
        self._is_closed = True
        tasks = [*self._late_reads, *([self._opening] if self._opening else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loader.close()
        self._blocking.close()
        self._redis.close()

    def _read(self, snapshot: FeastSnapshot, request: LookupRequest, done: ReadDone) -> None:
        plan = snapshot.plan(request.service)
        plan.reads(request.names)
        invalid = plan.invalid_ids(request.ids)
        if invalid:
            request, done = _without_invalid_ids(request, invalid, done)
        if not request.ids:
            asyncio.get_running_loop().call_soon(done, [])
        elif plan.has_layouts:
            self._redis.read(snapshot, request, done)
        else:
            self._blocking.read(snapshot, request, done)

    async def _read_after_opening(self, request: LookupRequest, done: ReadDone) -> None:
        """Read by the newest definitions, and wait for them where they lack the features."""
        try:
            self._read(await self._snapshot_with(request), request, done)
        except GatewayError as error:
            done(error)

    async def _snapshot_with(self, request: LookupRequest) -> FeastSnapshot:
        """The newest definitions, once the service was looked up.

        Raises:
            FeaturesUnavailable: there are none yet.
        """
        loop = asyncio.get_running_loop()
        is_new = request.service not in self._wanted
        self._wanted.add(request.service)
        if self._snapshot is None:
            if loop.time() >= self._next_attempt:
                self._open()
            raise FeaturesUnavailable(self._problem or "The feature store is being opened.")
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if is_new or loop.time() >= self._next_attempt:
            await asyncio.shield(self._open())
        return self._snapshot

    async def _warm_up(self, snapshot: FeastSnapshot) -> None:
        """Read an entity that hardly exists, so that no request has to import and connect."""
        sample = next(filter(None, map(snapshot.sample, sorted(self._wanted))), None)
        if sample is None:
            return
        ended = asyncio.Event()
        with suppress(GatewayError, TimeoutError):
            self._read(snapshot, sample, lambda _: ended.set())
            # A view that hangs must not keep the definitions of others from being refreshed.
            async with asyncio.timeout(_TRIAL_SECONDS):
                await ended.wait()

    def _open(self) -> asyncio.Task[None]:
        """Start to open the store again, unless that is under way."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open_again())
        return self._opening

    async def _open_again(self) -> None:
        wanted = sorted(self._wanted)
        wait = self._retry_seconds
        try:
            snapshot = await self._loader.run(
                "", partial(open_snapshot, self._home, wanted, self._socket_seconds)
            )
        except FeaturesUnavailable as error:
            if error.message != self._problem:
                log.warning("the feature store cannot be opened", extra={"reason": error.message})
            self._problem = error.message
        else:
            if self._snapshot is not None:
                snapshot.keep_plans_of(self._snapshot)
            else:
                # What Feast brought stays: without this each full collection of garbage would
                # look through it, and requests would wait for that.
                gc.freeze()
            is_news = self._snapshot is None or self._problem is not None
            self._snapshot = snapshot
            self._problem = None
            await self._warm_up(snapshot)
            if is_news:
                log.info("the feature store is open", extra={"services": wanted})
            wait = self._refresh_seconds
        finally:
            self._opening = None
            now = asyncio.get_running_loop().time()
            self._next_attempt = now + self._retry_seconds
            self._refresh_at = now + wait

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._late_reads.add(task)
        task.add_done_callback(self._late_reads.discard)


def _without_invalid_ids(
    request: LookupRequest, invalid: Mapping[int, GatewayError], done: ReadDone
) -> tuple[LookupRequest, ReadDone]:
    """A request for the other ids, and a receiver that adds the errors of the invalid ones."""
    good = [one for at, one in enumerate(request.ids) if at not in invalid]

    def merge(outcome: list[EntityOutcome] | GatewayError) -> None:
        if isinstance(outcome, GatewayError):
            done(outcome)
            return
        rest = iter(outcome)
        done([invalid[at] if at in invalid else next(rest) for at in range(len(request.ids))])

    return LookupRequest(request.service, request.names, good, request.nullable), merge
