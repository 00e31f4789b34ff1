"""What is known about one version on the servers behind an address, and how it is found out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.triton.server import TritonServer

log = logging.getLogger(__name__)

MAX_MISSES: Final = 5
"""Deadlines missed in a row after which a version counts as hung."""
TRIAL_SECONDS: Final = 1.0
"""Pause between two attempts to find out whether a hung version answers again."""
SILENT_SECONDS: Final = 1.0
"""A server that owes responses and has sent none for this long, not even to a probe, has
stopped."""
_TRIAL_LIMIT_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 0.02

VerificationDone = Callable[[GatewayError | None], None]
"""Called with why a version is not READY; None when it is."""


class VersionState:
    """One version on all servers of a cluster; it changes while it is held.

    `ready`: at least one server has exactly this version READY and it does not hang; else `reason`.
    `confirmed_at`: `time.monotonic()` of the last confirmation, by a probe or an answer.
    `probe_request`: a complete inference request for one harmless row, to try one that hangs.
    """

    def __init__(self, model_name: str, version: int, servers: Sequence[TritonServer]) -> None:
        self.model_name = model_name
        self.version = version
        self.ready = False
        self.ready_since = 0.0
        """`time.monotonic()` of when it last became READY."""
        self.reason: str | None = None
        self.confirmed_at: float | None = None
        self.probe_request: bytes | None = None
        self.on_servers: list[ServerVersion] = []
        self.follow(servers)

    def follow(self, servers: Sequence[TritonServer]) -> list[ServerVersion]:
        """Track exactly these servers; return the additions."""
        known = {view.server: view for view in self.on_servers}
        self.on_servers = [known.get(server) or ServerVersion(server, self) for server in servers]
        self.refresh()
        return [view for view in self.on_servers if view.server not in known]

    def refresh(self) -> None:
        """Combine what is known about the servers."""
        ready = False
        for view in self.on_servers:
            view.is_usable = (
                view.is_ready is True and not view.is_hung and view.server.problem is None
            )
            ready = ready or view.is_usable
            if view.is_usable and (self.confirmed_at or 0.0) < (view.confirmed_at or 0.0):
                self.confirmed_at = view.confirmed_at
        if ready and not self.ready:
            self.ready_since = monotonic()
        self.ready = ready
        self.reason = None if ready or not self.on_servers else self.on_servers[0].reason

    def was_ready_since(self, other: VersionState) -> bool:
        """Whether it was READY at some time since `other` last became READY.

        A restarting Triton may have one of two versions READY before the other.
        """
        return self.confirmed_at is not None and self.confirmed_at >= other.ready_since

    def mark_ready(self) -> None:
        """Note that the version answers."""
        self.confirmed_at = monotonic()
        if not self.ready:
            for view in self.on_servers:
                view.server.mark_reachable()
                view.is_hung = False
                view.note(True)

    def unavailable(self) -> VariantUnavailable:
        """The error of a request when there is no server to `choose`."""
        return VariantUnavailable(
            f"{self.model_name} version {self.version} cannot answer: {self.reason}"
        )

    async def probe(self, limit_seconds: float) -> list[GatewayError | None]:
        """Ask every server now and note the answers; why each does not have the version READY."""
        return await asyncio.gather(*(view.probe(limit_seconds) for view in self.on_servers))

    def choose(
        self, tried: tuple[ServerVersion, ...] = (), *, usable_only: bool = False
    ) -> ServerVersion | None:
        """The least busy usable server; if none is usable, one that may have recovered, or None."""
        on_servers = self.on_servers
        if len(on_servers) == 1 and on_servers[0].is_usable and not tried:
            return on_servers[0]
        best: ServerVersion | None = None
        for view in on_servers:
            if (
                view.is_usable
                and view not in tried
                and (best is None or (view.in_flight, view.turn) < (best.in_flight, best.turn))
            ):
                best = view
        if best is not None or usable_only:
            return best
        return next((view for view in on_servers if view.is_possible and view not in tried), None)


class ServerVersion:
    """One version on one server.

    `is_ready` is the server's answer, None before it was first asked; `is_hung` says that it missed
    too many deadlines in a row, without a trial answered since; `is_usable` that requests may go to
    it, kept up to date by the state's `refresh`. `turn` grows with each choice.
    """

    def __init__(self, server: TritonServer, state: VersionState) -> None:
        self.server = server
        self.is_ready: bool | None = None
        self.is_hung = False
        self.is_usable = False
        self.confirmed_at: float | None = None
        self.probed_at = 0.0
        self.in_flight = 0
        self.misses = 0
        self.turn = 0
        self._state = weakref.ref(state)
        self._path = f"/v2/models/{state.model_name}/versions/{state.version}/ready"
        self._name = f"{state.model_name} version {state.version}"
        self._reason = "not yet confirmed with Triton"
        self._trial: asyncio.Task[None] | None = None
        self._unverified: list[VerificationDone] = []
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
                f"{MAX_MISSES} inferences in a row by {self._name} at {self.server.url} missed "
                "their deadline; it is tried about once a second."
            )
        return self._reason

    def note(self, ready: bool, reason: str | None = None) -> None:
        """Note the server's answer."""
        self.is_ready = ready
        if ready:
            self.confirmed_at = monotonic()
        else:
            self._reason = reason or (
                f"Triton at {self.server.url} does not have {self._name} READY."
            )
        self._refresh()

    def note_answer(self) -> None:
        """Note that it answered although it did not count as usable."""
        self.is_hung = False
        self.misses = 0
        if self.is_ready is None:
            self.is_ready = True
        if self.server.is_silent:  # an answer ends silence, but not a shutdown
            self.server.mark_reachable()
        self._refresh()

    def _refresh(self) -> None:
        state = self._state()
        if state is not None:
            state.refresh()

    async def probe(self, limit_seconds: float) -> GatewayError | None:
        """Ask the server now, note the answer, and say why the version is not READY.

        An unanswered probe counts against the server only if nothing else was answered either: a
        busy Triton may be slow to say that it is ready.
        """
        self.probed_at = monotonic()
        try:
            response = await self.server.get(self._path, limit_seconds)
        except (DeadlineExceeded, BadUpstreamAnswer) as error:
            # After a stall of this process, answers that arrived in time are read only now.
            await asyncio.sleep(_SETTLE_SECONDS)
            self._note_no_answer(error)
            return error
        except GatewayError as error:
            self.server.note_problem(error.message)
            return error
        self.server.mark_reachable()
        self.note(response.status == 200)
        return None if self.is_ready else VersionNotReady(self._reason)

    def _note_no_answer(self, error: GatewayError) -> None:
        server, now = self.server, monotonic()
        silent, staleness = now - server.heard_at, server.staleness_seconds
        if silent > staleness or (server.connections.busy and silent > SILENT_SECONDS):
            server.note_problem(error.message, silent=True)
        if self.confirmed_at is None or now - self.confirmed_at > staleness:
            self.note(False, error.message)

    def verify(self, done: VerificationDone, limit_seconds: float) -> None:
        """Ask whether the version is READY after all; calls made meanwhile share one probe."""
        self._unverified.append(done)
        if self._verification is None:
            self._verification = asyncio.create_task(self._verify(limit_seconds))

    async def _verify(self, limit_seconds: float) -> None:
        try:
            while self._unverified:
                waiting, self._unverified = self._unverified, []
                error = await self.probe(limit_seconds)
                for done in waiting:
                    done(error)
        finally:
            self._verification = None

    def record_miss(self) -> None:
        """Note a deadline that an inference missed."""
        self.misses += 1
        if self.misses >= MAX_MISSES and not self.is_hung:
            self.is_hung = True
            log.warning("a version seems to hang", extra={"reason": self.reason})
            self._refresh()
            if self._trial is None or self._trial.done():
                self._trial = asyncio.create_task(self._try())

    async def _try(self) -> None:
        """Try the version until it answers again, or nothing needs it."""
        await asyncio.sleep(TRIAL_SECONDS)
        while self.is_hung and (state := self._state()) is not None:
            request = state.probe_request
            del state  # no reference while it waits
            if request is None:
                # The next request is the trial: one more miss, and it counts as hung again.
                self.is_hung = False
                self.misses = MAX_MISSES - 1
                self._refresh()
                return
            with contextlib.suppress(GatewayError, TimeoutError):
                async with asyncio.timeout(_TRIAL_LIMIT_SECONDS):
                    response = await self.server.connections.fetch(request)
                self.server.heard_at = monotonic()
                if response.status in {200, 400}:
                    self.note_answer()
            await asyncio.sleep(TRIAL_SECONDS)
