"""What is known of one version on one server, and how it is found out."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    VersionNotReady,
)
from serving_gateway.triton.exchange import Exchange, TransportError, TritonResponse
from serving_gateway.triton.server import TritonServer

log = logging.getLogger(__name__)

MAX_MISSES: Final = 5
"""Deadlines missed in a row after which a version counts as hung."""
TRIAL_SECONDS: Final = 1.0
"""Pause between two attempts to find out whether a hung version answers again."""
SILENT_SECONDS: Final = 1.0
"""A server that owes responses and sent none for so long, a probe's included, has stopped."""
_TRIAL_LIMIT_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 0.02


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
        self.in_flight = 0
        self.misses = 0
        self.turn = 0
        self._owner = weakref.ref(owner)
        self._reason = "not yet confirmed with Triton"
        self._trial: _Trial | None = None
        self._unverified: list[Verified] = []
        self._verification: asyncio.Task[None] | None = None

    @property
    def is_possible(self) -> bool:
        """Whether asking it may help although it does not count as usable."""
        return not (self.is_hung or self.is_ready is False or self.server.is_silent)

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
        if self.confirmed_at is None or now - self.confirmed_at > staleness:
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
