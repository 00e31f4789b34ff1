"""The one Redis client of a gateway: given up after a short limit, and then left alone a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from serving_gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisConnection:
    """A client whose exchanges end in time, and whose exceptions are translated here, once.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with credentials where they are needed.
        limit_seconds: longest wait for one answer.
        pause_seconds: after a failure, how long others are refused without asking.

    Attributes:
        where: the address for people, without credentials.
        client: for subscriptions, whose failures are `failures()`.
    """

    def __init__(
        self, url: SecretStr, *, limit_seconds: float = 0.5, pause_seconds: float = 1.0
    ) -> None:
        # Not needed by a gateway that keeps its record in a file.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self.limit_seconds = limit_seconds
        self.pause_seconds = pause_seconds
        address = urlsplit(url.get_secret_value())
        place = f"{address.hostname}:{address.port or 6379}" if address.hostname else "its socket"
        self.where = f"Redis at {place}"
        self.client: Redis = Redis.from_url(
            url.get_secret_value(),
            socket_timeout=limit_seconds,
            socket_connect_timeout=limit_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._refused_until = 0.0
        self._refusal = ""

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Redis]:
        """The client, for one exchange within the limit; foreign errors end here.

        Raises:
            StoreUnavailable: Redis does not answer, or did not a moment ago.
        """
        if time.monotonic() < self._refused_until:
            raise StoreUnavailable(self._refusal)
        try:
            async with asyncio.timeout(self.limit_seconds):
                yield self.client
        except failures() as error:
            why = str(error) or f"no answer within {self.limit_seconds:g} s"
            self._refusal = f"{self.where} cannot be used: {why.rstrip('.')}."
            self._refused_until = time.monotonic() + self.pause_seconds
            raise StoreUnavailable(self._refusal) from error

    async def aclose(self) -> None:
        """Let go of all connections."""
        with contextlib.suppress(*failures()):
            async with asyncio.timeout(self.limit_seconds):
                await self.client.aclose()


def failures() -> tuple[type[Exception], ...]:
    """What Redis's client raises when Redis cannot be used."""
    from redis.exceptions import RedisError

    return (RedisError, OSError, TimeoutError)
