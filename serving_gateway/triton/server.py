"""One Triton server: its connections, and what is known of each version on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

import msgspec

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    TritonUnavailable,
)
from serving_gateway.triton.connections import Connections
from serving_gateway.triton.exchange import (
    ConnectFailed,
    ConnectionLost,
    Exchange,
    MalformedResponse,
    ResponseTimeout,
    TooManyConnections,
    TransportError,
    TritonResponse,
)
from serving_gateway.triton.protocol import TritonModelMetadata, metadata_decoder

log = logging.getLogger(__name__)

_INFERENCE_MAX_AGE_SECONDS: Final = 5.0
"""Shorter than Triton's exit timeout: connections end before a server that drains ends them."""
_CONTROL_MAX_AGE_SECONDS: Final = 1.0
"""A Triton that shuts down still answers on old connections and closes new ones at once."""
_CONTROL_CALLS: Final = 8
_CONTROL_ATTEMPTS: Final = 3


class ServerLimits(msgspec.Struct, frozen=True):
    """What holds for the clients of all servers.

    Attributes:
        idle: most connections kept to one server while they are not in use.
        connect_seconds: limit for opening one.
        staleness_seconds: how long a confirmed READY counts while a server does not answer.
    """

    idle: int
    connect_seconds: float
    staleness_seconds: float


def translated(error: TransportError, url: str) -> GatewayError:
    """The gateway's error for what went wrong on the way to Triton."""
    match error:
        case ConnectFailed():
            return TritonUnavailable(f"Triton at {url} cannot be reached: {error}.")
        case ConnectionLost():
            return TritonUnavailable(f"Triton at {url} closed the connection: {error}.")
        case TooManyConnections():
            return Overloaded(f"Triton at {url} is asked too much at once: {error}.")
        case ResponseTimeout():
            return DeadlineExceeded(f"Triton at {url}: {error}.", code="triton_timeout")
        case MalformedResponse():
            return BadUpstreamAnswer(f"The response of Triton at {url} cannot be read: {error}.")
        case _:
            return BadUpstreamAnswer(f"Triton at {url}: {error}.")


class _Fetch(Exchange):
    """A request whose response a coroutine awaits."""

    __slots__ = ("future",)

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.future: asyncio.Future[TritonResponse] = asyncio.get_running_loop().create_future()

    def on_response(self, response: TritonResponse) -> None:
        if not self.future.done():
            self.future.set_result(response)

    def on_failure(self, error: TransportError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class TritonServer:
    """One server.

    Args:
        url: its address.
        limits: of connections and time.
        server_name: the name in its certificate, where the address holds an IP.

    Attributes:
        problem: why no request goes to it; None while it is well.
        is_silent: whether the problem is that it does not answer.
        heard_at: `time.monotonic()` of its last response.
    """

    def __init__(self, url: str, limits: ServerLimits, server_name: str | None = None) -> None:
        self.url = url
        self.limits = limits
        self.connections = Connections(
            url,
            idle=limits.idle,
            connect_seconds=limits.connect_seconds,
            max_age_seconds=_INFERENCE_MAX_AGE_SECONDS,
            server_name=server_name,
        )
        # Neither inferences nor their number delay a probe.
        self._control = Connections(
            url,
            idle=_CONTROL_CALLS,
            connect_seconds=limits.connect_seconds,
            max_age_seconds=_CONTROL_MAX_AGE_SECONDS,
            server_name=server_name,
        )
        self._turns = asyncio.Semaphore(_CONTROL_CALLS)
        self._parts = urlsplit(url)
        self.problem: str | None = None
        self.is_silent = False
        self.heard_at = monotonic()
        self.on_change: Callable[[], None] | None = None
        """Called when `problem` begins or ends."""

    def note_problem(self, problem: str, *, silent: bool = False) -> None:
        """Have no request go to the server, where there is another, until it is well again."""
        former, self.problem = self.problem, problem
        self.is_silent = silent
        self.connections.drop_idle()
        self._control.drop_idle()  # the next probe needs a new connection to succeed
        if former is None:
            log.warning("a Triton server is in trouble", extra={"reason": problem})
            self._changed()

    def note_well(self) -> None:
        """Note that the server answers on a new connection."""
        if self.problem is not None:
            self.problem = None
            self.is_silent = False
            log.info("a Triton server is well again", extra={"url": self.url})
            self._changed()

    def note_answer(self) -> None:
        """Note an inference answered: it ends silence, but not a shutdown."""
        if self.is_silent:
            self.note_well()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    async def get(self, path: str, limit_seconds: float) -> TritonResponse:
        """The server's response to a GET of `path`, of any status.

        Raises:
            TritonUnavailable: it cannot be asked.
            DeadlineExceeded: it did not answer in time.
            BadUpstreamAnswer: its response is not HTTP.
        """
        path = f"{self._parts.path.rstrip('/')}{path}"
        request = f"GET {path} HTTP/1.1\r\nHost: {self._parts.netloc}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(limit_seconds), self._turns:
                return await self._fetch(request)
        except TimeoutError as error:
            timeout = ResponseTimeout(f"no answer within {limit_seconds:g} s")
            raise translated(timeout, self.url) from error
        except TransportError as error:
            raise translated(error, self.url) from error

    async def _fetch(self, request: bytes) -> TritonResponse:
        for attempt in range(_CONTROL_ATTEMPTS):
            fetch = _Fetch(request)
            try:
                (self._control.start_fresh if attempt else self._control.start)(fetch)
                response = await fetch.future
            except ConnectionLost as error:
                # A GET may be repeated: the connection may have been as old as the server allows.
                if error.answered or attempt == _CONTROL_ATTEMPTS - 1:
                    raise
            else:
                self.heard_at = monotonic()
                return response
            finally:
                if not fetch.future.done() or fetch.future.cancelled():
                    fetch.drop()
        raise AssertionError("unreachable")

    async def metadata(
        self, model_name: str, limit_seconds: float, version: int | None = None
    ) -> TritonModelMetadata | None:
        """The server's description of a model; None when no version of it is READY.

        Raises:
            TritonUnavailable, DeadlineExceeded: it cannot be asked, or does not answer in time.
            BadUpstreamAnswer: its response is unreadable.
        """
        path = f"/v2/models/{model_name}" + ("" if version is None else f"/versions/{version}")
        response = await self.get(path, limit_seconds)
        if response.status != 200:
            return None
        try:
            return metadata_decoder.decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadUpstreamAnswer(
                f"The model metadata of Triton at {self.url} are unreadable: {error}."
            ) from error

    async def ready_versions(self, model_name: str, limit_seconds: float) -> frozenset[int]:
        """The versions of a model that are READY; raises what `metadata` raises."""
        found = await self.metadata(model_name, limit_seconds)
        versions = () if found is None else found.versions
        return frozenset(int(one) for one in versions if one.isdecimal() and len(one) <= 18)

    def retire(self) -> None:
        """Keep no connection any more; exchanges under way go on."""
        self.connections.retire()
        self._control.retire()

    async def aclose(self) -> None:
        """Close all connections."""
        await self.connections.aclose()
        await self._control.aclose()
