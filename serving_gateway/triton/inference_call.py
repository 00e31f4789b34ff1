"""One inference in flight: what is retried, and what its outcome means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from serving_gateway.errors import (
    BadUpstreamAnswer,
    GatewayError,
    InferenceRefused,
    Overloaded,
    TritonUnavailable,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.triton.exchange import (
    AT_ONCE_SECONDS,
    ConnectFailed,
    ConnectionLost,
    Exchange,
    TritonResponse,
)
from serving_gateway.triton.protocol import error_text
from serving_gateway.triton.version_state import ServerVersion, VersionState

if TYPE_CHECKING:
    from serving_gateway.triton.cluster import TritonCluster

log = logging.getLogger(__name__)

InferenceDone = Callable[[TritonResponse | GatewayError], None]
"""Called with a response of status 200, or with the error that explains why there is none."""

MODEL_FAILED: Final = "model_failed"
"""Code of the error of an inference that failed inside a READY version."""
_RETRY_EARNED: Final = 0.1
MAX_RETRIES: Final = 100.0
"""Each answer earns a tenth of a retry, and at most this many are saved: requests in flight on a
server that ends are retried, and an outage is not amplified."""
_PAUSES: Final = (0.0, 0.02, 0.08)
"""Pauses before the only server is retried; short in total, so that its loss is reported at
once."""
_MAX_ATTEMPTS: Final = 6
VERIFY_SECONDS: Final = 1.0


class InferenceCall(Exchange):
    """One inference in flight; see `TritonCluster.infer`."""

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
        cluster: TritonCluster,
        state: VersionState,
        request: bytes,
        deadline: float,
        done: InferenceDone,
        is_repeatable: bool,
    ) -> None:
        # Like `Exchange.__init__`, in one call: this is made for every inference.
        self.request = request
        self.connection = None
        self.is_abandoned = False
        self._cluster = cluster
        self._state = state
        self._deadline = deadline
        self._done = done
        self._is_repeatable = is_repeatable
        self._at: ServerVersion | None = None
        self._attempts = 0
        self._tried: tuple[ServerVersion, ...] = ()
        self._is_pinned = False
        self._timer: asyncio.TimerHandle | None = None

    def abandon(self, *, overdue: bool = False) -> bool:
        """Do not call `done` any more; being overdue counts against the server's version."""
        at, self._at = self._at, None
        self.drop()
        if self._timer is not None:
            self._timer.cancel()
        if at is not None:
            at.in_flight -= 1
            if overdue:
                at.record_miss()
        return True

    def send(self, to: ServerVersion) -> None:
        """Send the request to a server; a retry uses a new connection."""
        self._at = to
        to.in_flight += 1
        self._attempts += 1
        if self._attempts == 1:
            to.server.connections.start(self)
        else:
            to.server.connections.start_fresh(self)

    def on_response(self, response: TritonResponse) -> None:
        """Pass a good response on, and find out what any other one means."""
        at, self._at = self._at, None
        if at is None:
            return
        at.in_flight -= 1
        at.misses = 0
        cluster = self._cluster
        if cluster.retries < MAX_RETRIES:
            cluster.retries += _RETRY_EARNED
        at.server.heard_at = now = monotonic()
        if response.status != 200:
            self._on_refusal(at, response)
            return
        at.confirmed_at = self._state.confirmed_at = now
        if not at.is_usable:
            at.note_answer()
        try:
            self._done(response)
        except Exception:
            log.exception("an inference's response could not be processed")
            self.finish(BadUpstreamAnswer("Triton's answer could not be processed; see the log."))

    def on_failure(self, error: GatewayError) -> None:
        """Retry where that is safe and may help."""
        at, self._at = self._at, None
        if at is None or self.is_abandoned:
            return
        at.in_flight -= 1
        if isinstance(error, ConnectionLost):
            self._on_lost(at, error)
        elif isinstance(error, ConnectFailed) and not self._is_pinned:
            self._cluster.suspect(at.server, error.message)
            self._retry(error, at)
        else:
            self.finish(error)

    def _on_lost(self, at: ServerVersion, error: ConnectionLost) -> None:
        # What may be resent: a request that the server cannot have read goes to any server. One
        # that it may have read could be what killed it, so no other server gets it; it is resent
        # once, pinned to the same server, if a kept connection ended right after the write, as idle
        # limits, drains and balancers end them. A server that died refuses that new connection, and
        # the request ends. A sequence must not be executed twice, so not even that is done for it.
        at.server.connections.drop_idle()
        if self._is_pinned:
            self.finish(error)
        elif error.unread and error.kept:
            self._retry(error, None)
        elif error.unread:
            self._cluster.suspect(at.server, f"{error.message} It seems to shut down.")
            self._retry(error, at)
        elif (
            self._is_repeatable
            and error.kept
            and not error.answered
            and error.seconds < AT_ONCE_SECONDS
            and self._cluster.take_retry()
        ):
            self._is_pinned = True
            self.send(at)
        else:
            self.finish(error)

    def _retry(
        self, error: GatewayError, failed: ServerVersion | None, *, elsewhere: bool = False
    ) -> None:
        """Resend the request, to another server if one `failed`; else end with `error`.

        `elsewhere` requires one that is known to be usable.
        """
        state, cluster = self._state, self._cluster
        if failed is not None:
            self._tried = (*self._tried, failed)
        to, pause = state.choose(self._tried, usable_only=elsewhere), 0.0
        is_only = state.on_servers == [failed] and not elsewhere
        if to is None and is_only and self._attempts <= len(_PAUSES):
            to, pause = failed, _PAUSES[self._attempts - 1]
        if (
            to is None
            or self._attempts >= _MAX_ATTEMPTS
            or cluster.loop.time() + pause >= self._deadline
            or not cluster.take_retry()
        ):
            self.finish(error)
        elif pause:
            self._timer = cluster.loop.call_later(pause, self.send, to)
        else:
            self.send(to)

    def _on_refusal(self, at: ServerVersion, response: TritonResponse) -> None:
        """Find out whether the request is to blame, or the version is gone."""
        explain = partial(self._explain, at, response.status, error_text(response.body))
        if response.status == 429:
            explain(None)
        else:
            at.verify(explain, VERIFY_SECONDS)

    def _explain(
        self, at: ServerVersion, status: int, reason: str, not_ready: GatewayError | None
    ) -> None:
        if self.is_abandoned:
            return
        message = f"Triton refused the inference ({status}): {reason}"
        if isinstance(not_ready, VersionNotReady):
            self._retry(VariantUnavailable(not_ready.message), at, elsewhere=True)
        elif not_ready is not None:
            self._retry(TritonUnavailable(not_ready.message), at, elsewhere=True)
        elif status in {429, 503}:
            busy = f"Triton at {at.server.url} has too much to do ({status}): {reason}"
            self._retry(Overloaded(busy), at, elsewhere=True)
        elif status == 400:
            self.finish(InferenceRefused(message))
        else:
            code = MODEL_FAILED if status >= 500 else None
            self.finish(BadUpstreamAnswer(message, code=code))

    def finish(self, error: GatewayError) -> None:
        """End with an error, unless the call was abandoned."""
        if self.is_abandoned:
            return
        try:
            self._done(error)
        except Exception:
            log.exception("an inference's error could not be processed")
