"""One Triton server: its connections, and whether it is healthy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from serving_gateway.errors import DeadlineExceeded
from serving_gateway.settings import Settings
from serving_gateway.triton.connections import Connections
from serving_gateway.triton.exchange import ConnectionLost, TritonResponse

log = logging.getLogger(__name__)

_INFERENCE_MAX_AGE_SECONDS: Final = 5.0
"""Shorter than Triton's exit timeout: connections end before a server that drains ends them."""
_CONTROL_MAX_AGE_SECONDS: Final = 1.0
"""A Triton that shuts down still answers on old connections and closes new ones at once."""
_CONTROL_CALLS: Final = 8
_CONTROL_ATTEMPTS: Final = 3


class TritonServer:
    """One server; `on_change` is called when its `problem` begins or ends.

    While there is a `problem`, no request goes to it; `is_silent` says that the problem is a lack
    of answers. `heard_at` is `time.monotonic()` of its last response.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        on_change: Callable[[], None],
        server_name: str | None = None,
    ) -> None:
        self.url = url
        self.staleness_seconds = settings.staleness_seconds
        connect = partial(
            Connections,
            url,
            connect_seconds=settings.triton_connect_seconds,
            server_name=server_name,
        )
        self.connections = connect(
            idle=settings.triton_connections, max_age_seconds=_INFERENCE_MAX_AGE_SECONDS
        )
        # Separate, so that inferences never delay a probe.
        self._control = connect(idle=_CONTROL_CALLS, max_age_seconds=_CONTROL_MAX_AGE_SECONDS)
        self._turns = asyncio.Semaphore(_CONTROL_CALLS)
        self._on_change = on_change
        self.problem: str | None = None
        self.is_silent = False
        self.heard_at = monotonic()

    def note_problem(self, problem: str, *, silent: bool = False) -> None:
        """Send no requests to the server, if there is another, until it is healthy again."""
        is_new, self.problem, self.is_silent = self.problem is None, problem, silent
        self.connections.drop_idle()
        self._control.drop_idle()  # the next probe needs a new connection to succeed
        if is_new:
            log.warning("a Triton server fails", extra={"reason": problem})
            self._on_change()

    def mark_reachable(self) -> None:
        """Note that the server answers on a new connection."""
        if self.problem is not None:
            self.problem, self.is_silent = None, False
            log.info("a Triton server answers again", extra={"url": self.url})
            self._on_change()

    async def get(self, path: str, limit_seconds: float) -> TritonResponse:
        """The server's response to a GET of `path`, of any status.

        `TritonUnavailable` or `Overloaded` when it cannot be asked, `DeadlineExceeded`, and
        `BadUpstreamAnswer` when its response is not HTTP.
        """
        parts = urlsplit(self.url)
        target = f"{parts.path.rstrip('/')}{path}"
        request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(limit_seconds), self._turns:
                response = await self._repeat(request)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Triton at {self.url}: no answer within {limit_seconds:g} s.",
                code="triton_timeout",
            ) from error
        self.heard_at = monotonic()
        return response

    async def _repeat(self, request: bytes) -> TritonResponse:
        for _ in range(_CONTROL_ATTEMPTS - 1):
            try:
                return await self._control.fetch(request)
            except ConnectionLost as error:
                # A GET may be repeated: the connection may just have reached the server's age
                # limit.
                if error.answered:
                    raise
                self._control.drop_idle()
        return await self._control.fetch(request)

    def retire(self) -> None:
        """Keep no connections any more; exchanges in flight go on."""
        self.connections.retire()
        self._control.retire()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.connections.aclose()
        await self._control.aclose()
