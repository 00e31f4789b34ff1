"""Reads of a plain Redis on the event loop, all keys in one command.

Feast's reader waits in a thread and sends a command for each key. Of the time that a look-up
takes from the interpreter that is the larger part, and the two threads wait for each other.
A cluster answers for the keys of one node only, so it is read in Feast's own way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from serving_gateway.features.feast_blocking import READING, Opened, ask, translated
from serving_gateway.features.feast_plan import Question, assemble
from serving_gateway.features.types import Found

_READ_ALL: Final = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HMGET', key, unpack(ARGV)) end
return found
"""


def on_loop(opened: Opened) -> bool:
    """Whether the online store is a plain Redis, by the client that Feast uses by default."""
    config = opened.config.online_store
    kinds = [getattr(config, name, None) for name in ("type", "redis_type", "client")]
    return kinds == ["redis"] * 3


class LoopReader:
    """Feast's online store on the running loop, with a client of ours."""

    def __init__(self) -> None:
        self._opened: Opened | None = None
        self._store: Any = None
        self._client: _OneCommand | None = None

    async def read(self, opened: Opened, question: Question) -> list[Found]:
        """Read view by view.

        Raises:
            InvalidEntityIds, ServiceUnusable, FeaturesUnavailable: as `FeatureStore.read`.
        """
        reads = ask(opened, question)
        with translated(READING):
            if self._opened is not opened:
                await self._open(opened)
            answers = [
                await self._store.online_read_async(
                    opened.config, read.view.table, keys, [*read.features]
                )
                for read, keys in reads
            ]
            return assemble(question, [read for read, _ in reads], answers)

    async def aclose(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _open(self, opened: Opened) -> None:
        from feast.infra.online_stores.helpers import get_online_store_from_config

        online = opened.config.online_store
        store: Any = get_online_store_from_config(online)
        client = _OneCommand(await store._get_client_async(online))
        store._client_async = client
        former, self._client, self._store, self._opened = self._client, client, store, opened
        if former is not None:
            await former.aclose()


class _OneCommand:
    """A client for `online_read_async`, which uses pipelines of HMGET alone: one command each.

    It has one connection, on which the reads take turns, and speaks over it directly: to take
    one from a pool, look whether it lives and give it back costs several times the read.

    Args:
        client: makes the connection, with whatever address and credentials Feast gave it.
    """

    def __init__(self, client: Any) -> None:
        self._connection = client.connection_pool.make_connection()
        self._turn = asyncio.Lock()

    def pipeline(self, *, transaction: bool) -> _Pipeline:  # noqa: ARG002 -- Feast's call
        return _Pipeline(self.read)

    async def read(self, keys: Sequence[bytes], fields: Sequence[Any]) -> Any:
        """The same fields of several keys; connects where it is not connected."""
        connection = self._connection
        command = connection.pack_command("EVAL", _READ_ALL, len(keys), *keys, *fields)
        async with self._turn:
            # A server that was restarted, or is behind a proxy, may have closed it meanwhile.
            again = connection.is_connected
            try:
                return await self._exchange(command)
            except _lost():
                if not again:
                    raise
                return await self._exchange(command)

    async def aclose(self) -> None:
        """Close the connection, after those that wait for their turn already."""
        async with self._turn:
            # Of no use any more, whatever state it is in.
            with suppress(Exception):
                await self._connection.disconnect(nowait=True)

    async def _exchange(self, command: Any) -> Any:
        await self._connection.send_packed_command(command, check_health=False)
        return await self._connection.read_response()


def _lost() -> type[Exception]:
    from redis.exceptions import ConnectionError as Lost

    return Lost


class _Pipeline:
    """The commands of one read: the same fields of several keys."""

    def __init__(self, read: Callable[[Sequence[bytes], Sequence[Any]], Awaitable[Any]]) -> None:
        self._read = read
        self._keys: list[bytes] = []
        self._fields: Sequence[Any] = ()

    async def __aenter__(self) -> _Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    def hmget(self, key: bytes, fields: Sequence[Any]) -> None:
        self._keys.append(key)
        self._fields = fields

    async def execute(self) -> Any:
        return await self._read(self._keys, self._fields)
