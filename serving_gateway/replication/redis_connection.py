"""The Redis client of a gateway: waits for a short limit only, and pauses after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from serving_gateway.errors import StoreUnavailable
from serving_gateway.settings import redis_place

if TYPE_CHECKING:
    from redis.asyncio import Redis

_CONNECTIONS: Final = 4
"""Most connections of a replica, one of which is the subscription, however many models it hosts."""


class RedisConnection:
    """A client whose exchanges end in time, and whose exceptions are translated here, once.

    Exchanges wait at most `limit_seconds` for an answer; after one without an answer, they are
    refused at once for `pause_seconds`. Subscriptions use `client`, which raises `failures`;
    `where` is the address for people, without credentials. `ValueError` for an address that cannot
    be read.
    """

    def __init__(
        self, url: SecretStr, *, limit_seconds: float = 0.5, pause_seconds: float = 1.0
    ) -> None:
        # Not needed by a gateway that keeps its record in a file.
        from redis import exceptions
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self.limit_seconds = limit_seconds
        self.pause_seconds = pause_seconds
        self.where = f"Redis at {redis_place(url.get_secret_value())}"
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url.get_secret_value(),
            max_connections=_CONNECTIONS,
            timeout=None,  # `session` has the limit
            socket_timeout=limit_seconds,
            socket_connect_timeout=limit_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self.client: Redis = Redis.from_pool(pool)
        lost, late = exceptions.ConnectionError, exceptions.TimeoutError
        self._losses = (lost, late, OSError, TimeoutError, EOFError)
        self.failures = (exceptions.RedisError, *self._losses)
        self._refused_until = 0.0
        self._refusal = ""
        self._answered_at = 0.0

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Redis]:
        """The client, for one exchange within the limit; all errors are `StoreUnavailable`.

        A Redis that cannot be reached, or does not answer, is not asked again for a moment. One
        that answers with an error, as for a key of another type, has refused this exchange alone.
        An answer ends that pause, and a command that began before the answer does not start a new
        pause when it fails: it was waiting while the network was cut.
        """
        began = time.monotonic()
        if began < self._refused_until:
            raise StoreUnavailable(self._refusal)
        try:
            async with asyncio.timeout(self.limit_seconds):
                yield self.client
            self._answered_at = time.monotonic()
            self.resume()
        except self._losses as error:
            why = str(error) or f"no answer within {self.limit_seconds:g} s"
            refusal = f"{self.where} cannot be used: {why.rstrip('.')}."
            if began >= self._answered_at:
                self._refusal = refusal
                self._refused_until = time.monotonic() + self.pause_seconds
            raise StoreUnavailable(refusal) from error
        except self.failures as error:
            raise StoreUnavailable(f"{self.where} refuses: {str(error).rstrip('.')}.") from error

    def resume(self) -> None:
        """Ask again at once: Redis answers."""
        self._refused_until = 0.0

    async def aclose(self) -> None:
        """Close all connections."""
        with contextlib.suppress(*self.failures):
            async with asyncio.timeout(self.limit_seconds):
                await self.client.aclose()
