"""Look-ups of features with callbacks, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from serving_gateway.errors import GatewayError
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import (
    EntityKey,
    EntityOutcome,
    FeatureStore,
    InvalidEntityIds,
    LookupRequest,
    LookupResult,
)

T = TypeVar("T")


async def called(start: Callable[[Callable[[T | GatewayError], None]], None]) -> T:
    """What `start` passes to its callback; an error is raised."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(outcome: T | GatewayError) -> None:
        if future.cancelled():
            return
        if isinstance(outcome, GatewayError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    start(done)
    assert not future.done(), "called back synchronously"
    return await future


async def look_up(
    reader: FeatureReader,
    service: str,
    names: tuple[str, ...],
    ids: Sequence[EntityKey],
    nullable: frozenset[str] = frozenset(),
    keys: tuple[str, ...] = (),
) -> list[LookupResult]:
    """The results of a look-up."""
    return await called(lambda done: reader.look_up(service, names, ids, nullable, done, keys))


async def read(
    store: FeatureStore,
    service: str,
    names: tuple[str, ...],
    ids: Sequence[EntityKey],
    nullable: frozenset[str] = frozenset(),
    keys: tuple[str, ...] = (),
) -> list[LookupResult]:
    """The results of a read; raises the error of the first entity that has one."""
    request = LookupRequest(service, names, ids, nullable, keys)
    outcomes: list[EntityOutcome] = await called(lambda done: store.read(request, done))
    results: list[LookupResult] = []
    for at, one in enumerate(outcomes):
        if isinstance(one, InvalidEntityIds):
            raise InvalidEntityIds(at, one.why, one.key)
        if isinstance(one, GatewayError):
            raise one
        results.append(one)
    return results
