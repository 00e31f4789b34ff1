"""Everything that is not public in Feast and in Redis's client, and that reads need nevertheless.

A test compares each of these with the installed versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
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
    """The keys and fields that Feast would read for these entities; nothing is connected."""
    store = new_online_store(config)
    client = store._client = _RecordingClient()
    store.online_read(config, table, [*entity_keys], [*features])
    return client.reads


class _RecordingClient:
    """Stands in for Redis's client: records what is read, and has none of it."""

    def __init__(self) -> None:
        self.reads: list[tuple[bytes, list[bytes]]] = []

    def pipeline(self, **_: bool) -> AbstractContextManager[_RecordingClient]:
        return nullcontext(self)

    def hmget(self, key: bytes, fields: Sequence[str | bytes]) -> None:
        plain = [one.encode() if isinstance(one, str) else one for one in fields]
        self.reads.append((key, plain))

    def execute(self) -> list[list[None]]:
        return [[None] * len(fields) for _, fields in self.reads]


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
