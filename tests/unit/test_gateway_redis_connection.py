"""When a gateway leaves a Redis alone that did not answer."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.redis_connection import RedisConnection


@pytest.fixture
def connection() -> RedisConnection:
    return RedisConnection(SecretStr("redis://127.0.0.1:9/0"), limit_seconds=0.1, pause_seconds=60)


async def _wait_in_vain(connection: RedisConnection, begun: asyncio.Event) -> None:
    async def wait() -> None:
        async with connection.session():
            begun.set()
            await asyncio.Event().wait()

    with pytest.raises(StoreUnavailable):
        await wait()


async def test_redis_that_does_not_answer_is_left_alone(connection: RedisConnection) -> None:
    await _wait_in_vain(connection, asyncio.Event())
    with pytest.raises(StoreUnavailable, match="no answer"):
        async with connection.session():
            pytest.fail("it was asked again")


async def test_exchange_begun_before_the_network_was_back_refuses_no_later_one(
    connection: RedisConnection,
) -> None:
    begun = asyncio.Event()
    late = asyncio.create_task(_wait_in_vain(connection, begun))
    await begun.wait()
    async with connection.session():
        pass  # is answered
    await late
    async with connection.session():
        pass  # and is not refused


async def test_answer_ends_the_pause(connection: RedisConnection) -> None:
    async with connection.session():
        connection.limit_seconds = 0.05
        await _wait_in_vain(connection, asyncio.Event())
    async with connection.session():
        pass  # is not refused
