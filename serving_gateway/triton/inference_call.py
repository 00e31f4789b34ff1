"""One inference under way: what is tried again, and what its outcome means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from serving_gateway.errors import (
    BadUpstreamAnswer,
    GatewayError,
    InferenceRefused,
    Overloaded,
    TritonUnavailable,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.triton.connection import AT_ONCE_SECONDS
from serving_gateway.triton.exchange import (
    ConnectFailed,
    ConnectionLost,
    Exchange,
    TransportError,
    TritonResponse,
)
from serving_gateway.triton.protocol import error_text
from serving_gateway.triton.server import TritonServer, translated
from serving_gateway.triton.server_version import ServerVersion
from serving_gateway.triton.version_state import VersionState

log = logging.getLogger(__name__)

InferenceDone = Callable[[TritonResponse | GatewayError], None]
"""Called with a response of status 200, or with the error that explains why there is none."""

MODEL_FAILED: Final = "model_failed"
"""Code of the error of an inference that failed inside a READY version."""
_RETRY_EARNED: Final = 0.1
MAX_RETRIES: Final = 100.0
"""Each answer earns a tenth of a retry, and so many are saved: what was under way on a server
that ends is tried again, and an outage is not multiplied."""
_PAUSES: Final = (0.0, 0.02, 0.08)
"""Before the only server is tried again; together short, so that its loss is reported at once."""
_MAX_ATTEMPTS: Final = 6
VERIFY_SECONDS: Final = 1.0


class Retries(Protocol):
    """What the calls to one cluster share."""

    loop: asyncio.AbstractEventLoop
    retries: float

    def take_retry(self) -> bool:
        """Whether the budget allows one more retry; if so it is paid."""

    def suspect(self, server: TritonServer, problem: str) -> None:
        """Prefer the other servers."""


class InferenceCall(Exchange):
    """One inference under way."""

    __slots__ = (
        "_at",
        "_attempts",
        "_cluster",
        "_deadline",
        "_done",
        "_is_pinned",
        "_is_repeatable",
        "_state",
        "_timer",
        "_tried",
    )

    def __init__(
        self,
        cluster: Retries,
        state: VersionState,
        request: bytes,
        deadline: float,
        done: InferenceDone,
    ) -> None:
        self.request = request
        self.connection = None
        self.is_abandoned = False
        self._cluster = cluster
        self._state = state
        self._deadline = deadline
        self._done = done
        self._at: ServerVersion | None = None
        self._attempts = 0
        self._tried: tuple[ServerVersion, ...] = ()
        self._is_pinned = False
        self._is_repeatable = True
        self._timer: asyncio.TimerHandle | None = None

    def abandon(self, *, overdue: bool = False) -> None:
        """Forget the inference: `done` is not called any more.

        Args:
            overdue: whether it missed its deadline, which counts against the server's version.
        """
        at, self._at = self._at, None
        self.drop()
        if self._timer is not None:
            self._timer.cancel()
        if at is not None:
            at.in_flight -= 1
            if overdue:
                at.miss()

    def send(self, to: ServerVersion, *, fresh: bool = False) -> None:
        """Send the request to a server."""
        self._at = to
        to.in_flight += 1
        self._attempts += 1
        if fresh:
            to.server.connections.start_fresh(self)
        else:
            to.server.connections.start(self)

    def on_response(self, response: TritonResponse) -> None:
        """Pass a good response on, and find out what another one means."""
        at, self._at = self._at, None
        if at is None:
            return
        at.in_flight -= 1
        at.misses = 0
        cluster, state = self._cluster, self._state
        if cluster.retries < MAX_RETRIES:
            cluster.retries += _RETRY_EARNED
        at.server.heard_at = now = monotonic()
        if response.status != 200:
            self._on_refusal(at, response)
            return
        at.confirmed_at = state.confirmed_at = now
        if not at.is_usable:
            at.note_answer()
        try:
            self._done(response)
        except Exception:
            log.exception("an inference's response could not be processed")
            self._finish(BadUpstreamAnswer("Triton's answer could not be processed; see the log."))

    def on_failure(self, error: TransportError) -> None:
        """Try again where that is safe and may help."""
        at, self._at = self._at, None
        if at is None or self.is_abandoned:
            return
        at.in_flight -= 1
        if isinstance(error, ConnectionLost):
            self._on_lost(at, error)
        elif isinstance(error, ConnectFailed) and not self._is_pinned:
            failed = translated(error, at.server.url)
            self._cluster.suspect(at.server, failed.message)
            self._retry(failed, at)
        else:
            self._finish(translated(error, at.server.url))

    def _on_lost(self, at: ServerVersion, error: ConnectionLost) -> None:
        # What may be sent again: a request that the server cannot have read goes to any server.
        # One that it may have read could be what killed it, so that no other server gets it; it
        # goes again once, pinned to the same server, if a kept connection ended right after the
        # write, as idle limits, drains and balancers end them. A server that died refuses that
        # new connection, and the request ends. For a sequence, which must not be executed twice,
        # not even that is done.
        server = at.server
        server.connections.drop_idle()
        failed = translated(error, server.url)
        if self._is_pinned:
            self._finish(failed)
        elif error.unread and error.kept:
            self._retry(failed, None)
        elif error.unread:
            self._cluster.suspect(server, f"{failed.message} It seems to shut down.")
            self._retry(failed, at)
        elif (
            self._is_repeatable
            and error.kept
            and not error.answered
            and error.seconds < AT_ONCE_SECONDS
            and self._cluster.take_retry()
        ):
            self._is_pinned = True
            self.send(at, fresh=True)
        else:
            self._finish(failed)

    def _retry(self, error: GatewayError, failed: ServerVersion | None) -> None:
        """Send it again, to another server where one failed; end with `error` otherwise."""
        state, cluster = self._state, self._cluster
        if failed is not None:
            self._tried = (*self._tried, failed)
        to, pause = state.choose(self._tried), 0.0
        if to is None and state.on_servers == [failed] and self._attempts <= len(_PAUSES):
            to, pause = failed, _PAUSES[self._attempts - 1]
        if (
            to is None
            or self._attempts >= _MAX_ATTEMPTS
            or cluster.loop.time() + pause >= self._deadline
            or not cluster.take_retry()
        ):
            self._finish(error)
        elif pause:
            self._timer = cluster.loop.call_later(pause, lambda: self.send(to, fresh=True))
        else:
            self.send(to, fresh=True)

    def _on_refusal(self, at: ServerVersion, response: TritonResponse) -> None:
        """Find out whether the request is to blame, or the version is gone."""
        status, reason = response.status, error_text(response.body)

        def explain(not_ready: GatewayError | None) -> None:
            if self.is_abandoned:
                return
            if not_ready is not None:
                is_gone = isinstance(not_ready, VersionNotReady)
                kind = VariantUnavailable if is_gone else TritonUnavailable
                self._retry_elsewhere(at, kind(not_ready.message))
            elif status in {429, 503}:
                busy = f"Triton at {at.server.url} has too much to do ({status}): {reason}"
                self._retry_elsewhere(at, Overloaded(busy))
            else:
                self._finish(_refusal(status, reason))

        if status == 429:
            explain(None)
        else:
            at.verify(explain, VERIFY_SECONDS)

    def _retry_elsewhere(self, at: ServerVersion, error: GatewayError) -> None:
        if self._state.choose((*self._tried, at), usable_only=True) is None:
            self._finish(error)
        else:
            self._retry(error, at)

    def _finish(self, error: GatewayError) -> None:
        if self.is_abandoned:
            return
        try:
            self._done(error)
        except Exception:
            log.exception("an inference's error could not be processed")

    def refuse(self, error: GatewayError) -> None:
        """End an inference that was not sent, after `infer` has returned."""
        self._cluster.loop.call_soon(self._finish, error)

    def forbid_repetition(self) -> None:
        """Have nothing executed twice."""
        self._is_repeatable = False


def _refusal(status: int, reason: str) -> GatewayError:
    message = f"Triton refused the inference ({status}): {reason}"
    if status == 400:
        return InferenceRefused(message, upstream_status=status)
    if status >= 500:
        return BadUpstreamAnswer(message, code=MODEL_FAILED)
    return BadUpstreamAnswer(message)
