"""Features in a Feast online store (SQLite, Redis or another one that Feast reads).

Feast blocks, and takes seconds to import: it is imported and run in a few threads of our own,
but for reads of a plain Redis. Definitions are kept, and looked at again in the background.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.feast_blocking import (
    OnlineStores,
    Opened,
    import_feast,
    open_store,
    read_rows,
)
from serving_gateway.features.feast_plan import Question
from serving_gateway.features.feast_redis import LoopReader, on_loop
from serving_gateway.features.types import Found

log = logging.getLogger(__name__)


class FeastStore:
    """A `FeatureStore` on Feast.

    Args:
        home: directory of the rendered feature_store.yaml; it need not be there yet.
        socket_seconds: limit for one answer of Redis, so that one that hangs gives its thread
            back. What the connection string says itself goes first.
        threads: most reads at a time.
        refresh_seconds: after which definitions are looked at again.
        retry_seconds: shortest time between two looks at what is not there.
    """

    def __init__(
        self,
        home: Path,
        *,
        socket_seconds: float = 0.5,
        threads: int = 2,
        refresh_seconds: float = 60.0,
        retry_seconds: float = 1.0,
    ) -> None:
        self._home = home.expanduser().absolute()
        self._socket_seconds = socket_seconds
        self._refresh_seconds = refresh_seconds
        self._retry_seconds = retry_seconds
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="features")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="feature-definitions")
        self._stores = OnlineStores()
        self._on_loop = LoopReader()
        self._wanted: set[str] = set()
        self._opened: Opened | None = None
        self._opening: asyncio.Task[None] | None = None
        self._next_look = 0.0
        self._refresh_at = 0.0
        self._problem: str | None = None

    async def prepare(self, *services: str) -> None:
        """Open the store, look services up and read once, ahead of the first request's read.

        Importing Feast takes seconds and much of the interpreter: do it before the first
        request, but let nothing depend on it. What cannot be opened now is tried again by reads
        and by `run`, these services included.
        """
        self._wanted.update(services)
        if self._opening is not None:
            # It may have begun before these services were known of.
            await asyncio.shield(self._opening)
        if self._opened is None or not all(map(self._opened.readable, services)):
            await asyncio.shield(self._look())

    async def run(self) -> None:
        """Open the store as soon as it is there, so that no request has to come to grief first."""
        if self._opened is None:
            # What takes the longest needs no store.
            loop = asyncio.get_running_loop()
            with suppress(FeaturesUnavailable):
                await loop.run_in_executor(self._loader, import_feast)
        while self._opened is None:
            await asyncio.sleep(self._retry_seconds)
            await asyncio.shield(self._look())

    async def read(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str] = frozenset(),
    ) -> list[Found]:
        """Read these features of a feature service: one `Found` per id, in that order.

        Those named in `nullable` may be null.

        Raises:
            InvalidEntityIds: ids of another type than the entity's.
            ServiceUnusable: there is no such service, none that can be read by one id, or it
                has no feature of such a name.
            FeaturesUnavailable: the store is not there, is being opened, or cannot be read.
        """
        opened = await self._definitions(service, names)
        return await self._read(opened, Question(service, names, ids, nullable))

    async def aclose(self) -> None:
        """Let go of connections and threads; a thread that hangs is not waited for."""
        if self._opening is not None:
            self._opening.cancel()
            with suppress(asyncio.CancelledError):
                await self._opening
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._stores.close()
        await self._on_loop.aclose()

    async def _read(self, opened: Opened, question: Question) -> list[Found]:
        if on_loop(opened):
            return await self._on_loop.read(opened, question)
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, read_rows, self._stores, opened, question
        )

    async def _warm_up(self, opened: Opened) -> None:
        """Read an entity that hardly exists: imports and connections are no request's to make."""
        sample = next(filter(None, map(opened.sample, sorted(self._wanted))), None)
        if sample is None:
            return
        try:
            await self._read(opened, sample)
        except GatewayError as error:
            log.debug("the trial read failed", extra={"reason": error.message})

    async def _definitions(self, service: str, names: tuple[str, ...]) -> Opened:
        """The newest definitions; waits for them only when they lack what is asked for."""
        now = time.monotonic()
        opened = self._opened
        if opened is not None and opened.has(service, names):
            if now >= self._refresh_at:
                self._look()
            return opened
        new = service not in self._wanted
        self._wanted.add(service)
        if opened is None:
            if now >= self._next_look:
                self._look()
            raise FeaturesUnavailable(self._problem or "The feature store is being opened.")
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if new or now >= self._next_look:
            await asyncio.shield(self._look())
        return self._opened or opened

    def _look(self) -> asyncio.Task[None]:
        """Start to open the store anew, unless that is under way."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open_again())
        return self._opening

    async def _open_again(self) -> None:
        wanted = sorted(self._wanted)
        loop = asyncio.get_running_loop()
        wait = self._retry_seconds
        try:
            opened = await loop.run_in_executor(
                self._loader, open_store, self._home, wanted, self._socket_seconds
            )
        except FeaturesUnavailable as error:
            if error.message != self._problem:
                log.warning("the feature store cannot be opened", extra={"reason": error.message})
            self._problem = error.message
        else:
            if self._opened is None:
                # What Feast brought stays: without this each full collection of garbage would
                # look through it, and requests would wait for that.
                gc.freeze()
            fresh = self._opened is None or self._problem is not None
            self._opened = opened
            self._problem = None
            await self._warm_up(opened)
            if fresh:
                log.info("the feature store is open", extra={"services": wanted})
            wait = self._refresh_seconds
        finally:
            self._opening = None
            now = time.monotonic()
            self._next_look = now + self._retry_seconds
            self._refresh_at = now + wait
