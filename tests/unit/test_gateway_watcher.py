"""The watcher ends when it is told to, whatever a client library makes of that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from serving_gateway.contract import RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.redis_store import RedisStore
from serving_gateway.replication.watcher import Watcher


async def forever() -> None:
    await asyncio.Event().wait()


class SwallowingStore:
    """A store whose client turns a cancellation into another error."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def read(self) -> RoutingRecord:
        self.asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
        raise StoreUnavailable("the connection was closed")

    async def follow(self, changed: Callable[[], None]) -> None:
        await forever()


async def test_a_cancellation_that_the_store_swallowed_ends_the_watcher() -> None:
    record = RoutingRecord(model_name="best_model")
    router: Any = SimpleNamespace(
        look=forever,
        table=SimpleNamespace(record=record),
        readiness=lambda: SimpleNamespace(ready=False, reasons=()),
    )
    presence: Any = SimpleNamespace(beat=lambda: asyncio.sleep(0))
    snapshot: Any = SimpleNamespace(keep=lambda _: asyncio.sleep(0))
    store: Any = SwallowingStore()
    task = asyncio.create_task(Watcher(router, store, snapshot, presence, interval=0.01).run())
    await store.asked.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done == {task}
    assert task.cancelled()


async def test_a_subscription_that_swallowed_a_cancellation_ends_too() -> None:
    listening = asyncio.Event()

    async def listen(_: Callable[[], None]) -> None:
        listening.set()
        with contextlib.suppress(asyncio.CancelledError):
            await forever()

    store: Any = object.__new__(RedisStore)
    store._connection = SimpleNamespace(pause_seconds=0)
    store._listen = listen
    task = asyncio.create_task(store.follow(lambda: None))
    await listening.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done == {task}
