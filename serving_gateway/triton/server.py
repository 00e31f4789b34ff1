"""One Triton server: its connections, and what is known of each version on it."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    TritonUnavailable,
    VersionNotReady,
)
from serving_gateway.triton.connections import (
    ConnectFailed,
    ConnectionLost,
    Connections,
    Exchange,
    MalformedResponse,
    ResponseTimeout,
    TooManyConnections,
    TransportError,
    TritonResponse,
)
from serving_gateway.triton.protocol import ModelMetadata, metadata_decoder

log = logging.getLogger(__name__)

MAX_MISSES: Final = 5
"""Deadlines missed in a row after which a version counts as hung."""
TRIAL_SECONDS: Final = 1.0
"""Pause between two attempts to find out whether a hung version answers again."""
SILENT_SECONDS: Final = 1.0
"""A server that owes responses and sent none for so long, a probe's included, has stopped."""
_TRIAL_LIMIT_SECONDS: Final = 5.0
_INFERENCE_MAX_AGE_SECONDS: Final = 5.0
"""Shorter than Triton's exit timeout: connections end before a server that drains ends them."""
_CONTROL_MAX_AGE_SECONDS: Final = 1.0
"""A Triton that shuts down still answers on old connections and closes new ones at once."""
_CONTROL_CALLS: Final = 8
_CONTROL_ATTEMPTS: Final = 3
_SETTLE_SECONDS: Final = 0.02


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
            return BadUpstreamAnswer(f"Triton at {url} sent a response that is not HTTP: {error}.")
        case _:
            return BadUpstreamAnswer(f"Triton at {url}: {error}.")


class _Fetch(Exchange):
    """A request whose response somebody awaits."""

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
        self._is_silent = False
        self.heard_at = monotonic()
        self.on_change: Callable[[], None] | None = None
        """Called when `problem` begins or ends."""

    def note_problem(self, problem: str, *, silent: bool = False) -> None:
        """Have no request go to the server, where there is another, until it is well again."""
        former, self.problem = self.problem, problem
        self._is_silent = silent
        self.connections.drop_idle()
        if former is None:
            log.warning("a Triton server is in trouble", extra={"reason": problem})
            self._changed()

    def note_well(self) -> None:
        """Note that the server answers on a new connection."""
        if self.problem is not None:
            self.problem = None
            log.info("a Triton server is well again", extra={"url": self.url})
            self._changed()

    def note_answer(self) -> None:
        """Note an inference answered: it ends silence, but not a shutdown."""
        if self._is_silent:
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
    ) -> ModelMetadata | None:
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


class VersionOwner(Protocol):
    """What combines the servers' views of one version."""

    probe_request: bytes | None

    def refresh(self) -> None:
        """Take note that a view changed."""


Verified = Callable[[GatewayError | None], None]
"""Called with why a version is not READY; None when it is."""


class ServerVersion:
    """One version on one server.

    Attributes:
        is_ready: the server's word; None before it was first asked.
        is_hung: whether it missed too many deadlines in a row, and no trial was answered since.
        is_usable: whether requests may go to it; its owner keeps that up to date.
        in_flight: inferences under way.
        turn: when it was last chosen, in numbers that grow.
    """

    __slots__ = (
        "__weakref__",
        "_owner",
        "_reason",
        "_trial",
        "_unverified",
        "_verification",
        "confirmed_at",
        "in_flight",
        "is_hung",
        "is_ready",
        "is_usable",
        "misses",
        "model_name",
        "probed_at",
        "server",
        "turn",
        "unanswered_since",
        "version",
    )

    def __init__(
        self, server: TritonServer, model_name: str, version: int, owner: VersionOwner
    ) -> None:
        self.server = server
        self.model_name = model_name
        self.version = version
        self.is_ready: bool | None = None
        self.is_hung = False
        self.is_usable = False
        self.confirmed_at: float | None = None
        self.probed_at = 0.0
        self.unanswered_since = 0.0
        self.in_flight = 0
        self.misses = 0
        self.turn = 0
        self._owner = weakref.ref(owner)
        self._reason = "not yet confirmed with Triton"
        self._trial: _Trial | None = None
        self._unverified: list[Verified] = []
        self._verification: asyncio.Task[None] | None = None

    @property
    def reason(self) -> str:
        """Why it is not usable."""
        if self.server.problem is not None:
            return self.server.problem
        if self.is_hung:
            return (
                f"{MAX_MISSES} inferences in a row by {self.model_name} version {self.version} at "
                f"{self.server.url} missed their deadline; it is tried about once a second."
            )
        return self._reason

    def note(self, ready: bool, reason: str | None = None) -> None:
        """Note the server's word."""
        self.is_ready = ready
        if ready:
            self.confirmed_at = monotonic()
        else:
            self._reason = reason or (
                f"Triton at {self.server.url} does not have {self.model_name} version "
                f"{self.version} READY."
            )
        self._changed()

    def note_answer(self) -> None:
        """Note that it answered although it did not count as usable."""
        self.is_hung = False
        self.misses = 0
        if self.is_ready is None:
            self.is_ready = True
        self.server.note_answer()
        self._changed()

    def _changed(self) -> None:
        owner = self._owner()
        if owner is not None:
            owner.refresh()

    async def probe(self, limit_seconds: float) -> GatewayError | None:
        """Ask the server now, note the answer, and say why the version is not READY.

        A question without an answer counts against the server only when nothing else was
        answered either: a busy Triton may be slow to say that it is ready.
        """
        server, path = self.server, f"/v2/models/{self.model_name}/versions/{self.version}/ready"
        self.probed_at = monotonic()
        try:
            response = await server.get(path, limit_seconds)
        except (DeadlineExceeded, BadUpstreamAnswer) as error:
            # After a stall of this process what had arrived in time is read only now.
            await asyncio.sleep(_SETTLE_SECONDS)
            self._note_no_answer(error)
            return error
        except GatewayError as error:
            server.note_problem(error.message)
            return error
        server.note_well()
        self.note(response.status == 200)
        return None if self.is_ready else VersionNotReady(self._reason)

    def _note_no_answer(self, error: GatewayError) -> None:
        server, staleness = self.server, self.server.limits.staleness_seconds
        now = monotonic()
        silent = now - server.heard_at
        if silent > staleness or (server.connections.busy and silent > SILENT_SECONDS):
            server.note_problem(error.message, silent=True)
        # Not by the age of the confirmation: a version without requests is probed only in its turn.
        if self.confirmed_at is None or self.confirmed_at >= self.unanswered_since:
            self.unanswered_since = self.probed_at
        if self.confirmed_at is None or now - self.unanswered_since > staleness:
            self.note(False, error.message)

    def verify(self, done: Verified, limit_seconds: float) -> None:
        """Ask whether the version is READY after all; calls made meanwhile share one question."""
        self._unverified.append(done)
        if self._verification is None:
            loop = asyncio.get_running_loop()
            self._verification = loop.create_task(self._verify(limit_seconds))

    async def _verify(self, limit_seconds: float) -> None:
        try:
            while self._unverified:
                waiting, self._unverified = self._unverified, []
                error = await self.probe(limit_seconds)
                for done in waiting:
                    done(error)
        finally:
            self._verification = None

    def miss(self) -> None:
        """Note a deadline that an inference missed."""
        self.misses += 1
        if self.misses >= MAX_MISSES and not self.is_hung:
            self.is_hung = True
            log.warning("a version seems to hang", extra={"reason": self.reason})
            self._changed()
            asyncio.get_running_loop().call_later(TRIAL_SECONDS, self._try)

    def _try(self) -> None:
        """Find out whether the version answers again, until it does or nothing needs it."""
        owner, loop = self._owner(), asyncio.get_running_loop()
        trial, self._trial = self._trial, None
        if trial is not None and loop.time() < trial.until and self.is_hung:
            self._trial = trial
        elif trial is not None:
            trial.drop()
        if owner is None or not self.is_hung:
            return
        if owner.probe_request is None:
            # The next request is the trial: one more miss, and it counts as hung again.
            self.is_hung = False
            self.misses = MAX_MISSES - 1
            self._changed()
            return
        if self._trial is None:
            self._trial = _Trial(owner.probe_request, self, loop.time() + _TRIAL_LIMIT_SECONDS)
            self.server.connections.start(self._trial)
        loop.call_later(TRIAL_SECONDS, self._try)


class _Trial(Exchange):
    """An inference of one harmless row by a version that hung."""

    __slots__ = ("_version", "until")

    def __init__(self, request: bytes, version: ServerVersion, until: float) -> None:
        super().__init__(request)
        self._version = version
        self.until = until

    def on_response(self, response: TritonResponse) -> None:
        self.until = 0.0
        self._version.server.heard_at = monotonic()
        if response.status in {200, 400}:
            self._version.note_answer()

    def on_failure(self, _: TransportError) -> None:
        self.until = 0.0
