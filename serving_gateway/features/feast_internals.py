"""Everything that is not public in Feast and in Redis's client, and that reads need nevertheless.

A test compares each of these with the installed versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

SOCKET_SECONDS: Final = 0.5
"""Limit for one answer of Redis, so that one that hangs is disconnected, unless the connection
string has a limit."""


def new_online_store(config: Any) -> Any:
    """An online store of Feast, not yet connected; imports what its reads need."""
    from feast.infra.online_stores.helpers import get_online_store_from_config

    return get_online_store_from_config(config.online_store)


def close_online_store(store: Any) -> None:
    """Close the connections of an online store, for which Feast has no call."""
    for name in ("_conn", "_client"):
        # It is discarded, so its state does not matter.
        with suppress(Exception):
            getattr(store, name).close()


def is_plain_redis(config: Any) -> bool:
    """Whether the online store is one Redis server, read by Feast's default client.

    A cluster answers for the keys of one node only, so it is read in Feast's own way.
    """
    online = config.online_store
    kinds = [getattr(online, name, None) for name in ("type", "redis_type", "client")]
    return kinds == ["redis"] * 3


def redis_reads(
    config: Any, table: Any, entity_keys: Sequence[Any], features: Sequence[str]
) -> list[tuple[bytes, list[bytes]]]:
    """The keys and fields that Feast reads for these entities."""
    from feast.infra.online_stores import redis

    store = redis.RedisOnlineStore()
    name = redis._versioned_fv_name(table, config)
    _, names = store._generate_hset_keys_for_features(table, [*features], name)
    fields = [one.encode() if isinstance(one, str) else one for one in names]
    return [(key, fields) for key in store._generate_redis_keys_for_entities(config, entity_keys)]


async def connect_redis(config: Any) -> tuple[asyncio.StreamWriter, float]:
    """A connection with the address, credentials, TLS and database that Feast is configured with.

    Returns:
        The writer, of whose transport the protocol may be replaced; and the limit in seconds
        for an answer.
    """
    client = await new_online_store(config)._get_client_async(config.online_store)
    connection = client.connection_pool.make_connection()
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    writer: asyncio.StreamWriter = connection._writer
    # Its finalizer would close a connection that it believes to be its own.
    connection._writer = connection._reader = None
    return writer, connection.socket_timeout or SOCKET_SECONDS
