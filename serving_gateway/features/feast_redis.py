"""The non-public parts of Feast and of Redis's client that reads of Redis need.

An entity is a hash: its key is the id between two constant parts, its fields are hashes of the
features' names. Both are taken from Feast itself, so that no rule of its format is repeated here. A
test compares each function with the installed versions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from serving_gateway.features.entity_ids import IdType
from serving_gateway.features.entity_rows import HashRead, View, ViewRead
from serving_gateway.features.row_decoder import make_row_decoder

log = logging.getLogger(__name__)

SOCKET_SECONDS: Final = 0.5
"""Limit for one answer of Redis, after which it is disconnected; the connection string may set
another one."""


def make_hashes(config: Any, id_type: IdType, reads: Sequence[ViewRead]) -> list[HashRead] | None:
    """Plan how to read the views of one key from Redis: those that share a hash by one command.

    A command serializes an id (RESP). None for any store but a single Redis server, or for an
    unknown format.
    """
    if not is_plain_redis(config):
        return None
    with suppress(Exception):  # of code that is not public
        return _derive_hashes(config, id_type, reads)
    log.warning("Feast's layout in Redis is unknown; it is read by Feast, which is slower")
    return None


def _derive_hashes(config: Any, id_type: IdType, reads: Sequence[ViewRead]) -> list[HashRead]:
    shared: dict[tuple[bytes, ...], list[bytes]] = {}
    parts: dict[tuple[bytes, ...], list[Any]] = {}
    for read in reads:
        key_fields = redis_reads(config, read.view, id_type, read.features)
        derive_command(id_type, key_fields)  # raises for a layout that is not known
        keys = tuple([key for key, _ in key_fields])
        fields = shared.setdefault(keys, [])
        start = len(fields)
        fields += key_fields[0][1]
        part = start, len(fields), make_row_decoder(read.value_types)
        parts.setdefault(keys, []).append(part)
    return [
        HashRead(derive_command(id_type, [(key, fields) for key in keys]), parts[keys])
        for keys, fields in shared.items()
    ]


def is_plain_redis(config: Any) -> bool:
    """Whether the store is one Redis server; a cluster's nodes answer for their own keys only."""
    online = config.online_store
    kinds = [getattr(online, name, None) for name in ("type", "redis_type", "client")]
    return kinds == ["redis"] * 3


def redis_reads(
    config: Any, view: View, id_type: IdType, features: Sequence[str]
) -> list[tuple[bytes, list[bytes]]]:
    """The key and the fields that Feast reads for each probe."""
    from feast.infra.online_stores import redis

    store, keys = redis.RedisOnlineStore(), id_type.keys(view.join_key, id_type.probes)
    name = redis._versioned_fv_name(view.table, config)
    _, names = store._generate_hset_keys_for_features(view.table, [*features], name)
    fields = [field.encode() if isinstance(field, str) else field for field in names]
    return [(key, fields) for key in store._generate_redis_keys_for_entities(config, keys)]


def derive_command(
    id_type: IdType, reads: Sequence[tuple[bytes, Sequence[bytes]]]
) -> Callable[[Any], bytes]:
    """Return a function from an id to its command, given what Feast reads for each probe.

    Raises `ValueError` where the keys are not made of an id between constant parts, or the
    timestamp is not the last field.
    """
    pack = id_type.pack
    key, fields = reads[0]
    prefix, probe, suffix = key.partition(pack(id_type.probes[0]))
    expected = [(prefix + pack(probe_id) + suffix, fields) for probe_id in id_type.probes]
    if not probe or expected != reads or not fields[-1].startswith(b"_ts:"):
        raise ValueError("Feast's keys have an unknown form")
    before = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
    after = b"".join(b"$%d\r\n%b\r\n" % (len(field), field) for field in fields)

    def command(entity_id: int | str) -> bytes:
        key = prefix + pack(entity_id) + suffix
        return b"%b$%d\r\n%b\r\n%b" % (before, len(key), key, after)

    return command


def limit_redis(config: Any) -> None:
    """Make Redis's client disconnect a server that hangs, instead of retrying it."""
    online = config.online_store
    if online.type != "redis":
        return
    present = {part.partition("=")[0] for part in online.connection_string.split(",")}
    limits = {"socket_timeout": SOCKET_SECONDS, "socket_connect_timeout": SOCKET_SECONDS}
    wanted = {**limits, "retry": "null"}.items()
    parts = [f"{name}={value}" for name, value in wanted if name not in present]
    # RESP2 sends replies in order and nothing in between, as a pipeline expects; the last option
    # counts.
    online.connection_string = ",".join([online.connection_string, *parts, "protocol=2"])


async def connect_redis(config: Any) -> tuple[asyncio.StreamWriter, float]:
    """Connect as Feast does, for another protocol to take over; and the limit in seconds."""
    from feast.infra.online_stores.redis import RedisOnlineStore

    client = await RedisOnlineStore()._get_client_async(config.online_store)
    connection = client.connection_pool.make_connection()
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    writer: asyncio.StreamWriter = connection._writer
    # Otherwise its finalizer would close the connection, which it takes for its own.
    connection._writer = connection._reader = None
    return writer, connection.socket_timeout or SOCKET_SECONDS
