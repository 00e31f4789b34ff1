"""Every Triton server behind one address: which one is asked, and what its outcome means."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from serving_gateway.errors import (
    BadUpstreamAnswer,
    GatewayError,
    InferenceRefused,
    Overloaded,
    TritonUnavailable,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.triton.connections import (
    ConnectFailed,
    ConnectionLost,
    Exchange,
    TransportError,
    TritonResponse,
)
from serving_gateway.triton.discovery import listed_urls, server_urls
from serving_gateway.triton.protocol import ModelMetadata, error_text
from serving_gateway.triton.server import ServerLimits, ServerVersion, TritonServer, translated

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")
InferenceDone = Callable[[TritonResponse | GatewayError], None]
"""Called with a response of status 200, or with the error that explains why there is none."""

MODEL_FAILED: Final = "model_failed"
"""Code of the error of an inference that failed inside a READY version."""
_RETRY_EARNED: Final = 0.1
_MAX_RETRIES: Final = 100.0
"""Each answer earns a tenth of a retry, and so many are saved: what was under way on a server
that ends is tried again, and an outage is not multiplied."""
_PAUSES: Final = (0.0, 0.02, 0.08)
"""Before the only server is tried again; together short, so that its loss is reported at once."""
_MAX_ATTEMPTS: Final = 6
_AT_ONCE_SECONDS: Final = 0.1
_VERIFY_SECONDS: Final = 1.0
_REFRESH_SECONDS: Final = 5.0
_RECOVERY_SECONDS: Final = 1.0
_MAX_RECOVERY_PROBES: Final = 25


class VersionState:
    """One version on all servers of a cluster; it changes while it is held.

    Attributes:
        ready: whether at least one server has exactly this version READY and it does not hang.
        reason: why not.
        confirmed_at: `time.monotonic()` of the last confirmation, by a probe or an answer.
        probe_request: a complete HTTP inference request for one harmless row, with which a
            version that hangs is tried.
    """

    __slots__ = (
        "__weakref__",
        "confirmed_at",
        "model_name",
        "on_servers",
        "probe_request",
        "ready",
        "reason",
        "version",
    )

    def __init__(self, model_name: str, version: int, servers: Sequence[TritonServer]) -> None:
        self.model_name = model_name
        self.version = version
        self.ready = False
        self.reason: str | None = None
        self.confirmed_at: float | None = None
        self.probe_request: bytes | None = None
        self.on_servers: list[ServerVersion] = []
        self.follow(servers)

    def follow(self, servers: Sequence[TritonServer]) -> list[ServerVersion]:
        """Be on exactly these servers; the additions."""
        known = {one.server: one for one in self.on_servers}
        name, version = self.model_name, self.version
        self.on_servers = [
            known.get(server) or ServerVersion(server, name, version, self) for server in servers
        ]
        self.refresh()
        return [one for one in self.on_servers if one.server not in known]

    def refresh(self) -> None:
        """Combine what is known of the servers."""
        ready = False
        for one in self.on_servers:
            one.is_usable = one.is_ready is True and not one.is_hung and one.server.problem is None
            ready = ready or one.is_usable
            if one.is_usable and (self.confirmed_at or 0.0) < (one.confirmed_at or 0.0):
                self.confirmed_at = one.confirmed_at
        self.ready = ready
        self.reason = None if ready or not self.on_servers else self.on_servers[0].reason

    def mark_ready(self) -> None:
        """Note that the version answers."""
        self.confirmed_at = monotonic()
        if not self.ready:
            for one in self.on_servers:
                one.server.note_well()
                one.is_hung = False
                one.note(True)

    def mark_unready(self, reason: str) -> None:
        """Note that no server's version can answer."""
        for one in self.on_servers:
            one.note(False, reason)

    def choose(self, tried: tuple[ServerVersion, ...] = ()) -> ServerVersion | None:
        """Where the next inference goes: where least are under way; None when nowhere.

        A server that was not asked yet is taken only when no other can be.
        """
        on_servers = self.on_servers
        if len(on_servers) == 1 and on_servers[0].is_usable and not tried:
            return on_servers[0]
        best: ServerVersion | None = None
        for one in on_servers:
            if one in tried or not (
                one.is_usable or (not self.ready and one.is_ready is None and not one.is_hung)
            ):
                continue
            if best is None or (one.in_flight, one.turn) < (best.in_flight, best.turn):
                best = one
        return best


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
        cluster: TritonCluster,
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
        if cluster.retries < _MAX_RETRIES:
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
            and error.seconds < _AT_ONCE_SECONDS
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
            at.verify(explain, _VERIFY_SECONDS)

    def _retry_elsewhere(self, at: ServerVersion, error: GatewayError) -> None:
        if self._state.choose((*self._tried, at)) is None:
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


class TritonCluster:
    """Every Triton server behind one address.

    Args:
        url: the address.
        limits: of connections and time.
        servers_url: addresses separated by commas, or a name that resolves to every server; None
            where `url` is one server.
        tracing: makes spans of inferences; None where that is switched off.

    Attributes:
        authority: host and port, for the Host header.
        prefix: path of the servers, in front of /v2.
    """

    def __init__(
        self,
        url: str,
        limits: ServerLimits,
        *,
        servers_url: str | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.url = url
        self.authority = urlsplit(url).netloc
        self.prefix = urlsplit(url).path.rstrip("/")
        self.tracing = tracing
        self.loop = asyncio.get_running_loop()
        self.retries = _MAX_RETRIES
        self._limits = limits
        self._servers_url = servers_url
        listed = None if servers_url is None else listed_urls(servers_url)
        self._is_dynamic = servers_url is not None and listed is None
        self._states: WeakValueDictionary[tuple[str, int], VersionState] = WeakValueDictionary()
        self._turn = 0
        self._servers: dict[str, TritonServer] = {}
        self._retired: list[TritonServer] = []
        for one in listed or [url]:
            self._add(one)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._discovered_at = 0.0
        self._discovering: asyncio.Task[Any] | None = None
        self._recovering: asyncio.Task[Any] | None = None
        self._timer: asyncio.Handle | None = None
        if servers_url is not None:
            self._timer = self.loop.call_soon(self._tick)

    def _add(self, url: str) -> TritonServer:
        name = urlsplit(self._servers_url or self.url).hostname if self._is_dynamic else None
        server = self._servers[url] = TritonServer(url, self._limits, name)
        server.on_change = self._refresh_states
        return server

    def _refresh_states(self) -> None:
        for state in [*self._states.values()]:
            state.refresh()

    def version(self, model_name: str, version: int) -> VersionState:
        """What is known of a version; the same object as long as somebody holds it."""
        state = self._states.get((model_name, version))
        if state is None:
            state = VersionState(model_name, version, [*self._servers.values()])
            self._states[model_name, version] = state
        return state

    def infer(
        self,
        model_name: str,
        version: int,
        request: bytes,
        deadline: float,
        done: InferenceDone,
        *,
        repeatable: bool = True,
    ) -> InferenceCall:
        """Send an inference to a server that has exactly this version READY.

        Args:
            model_name: the model in Triton.
            version: the version that the request names.
            request: the complete HTTP request.
            deadline: `loop.time()` after which nothing is tried again; the caller abandons the
                call then.
            done: called once, never before this returns; once more, with an error, if it raised.
            repeatable: whether the request may be executed twice, as those of sequences may not.
        """
        state = self._states.get((model_name, version)) or self.version(model_name, version)
        call = InferenceCall(self, state, request, deadline, done)
        if not repeatable:
            call.forbid_repetition()
        to = state.choose()
        if to is None:
            call.refuse(
                VariantUnavailable(f"{model_name} version {version} cannot answer: {state.reason}")
            )
        else:
            self._turn = to.turn = self._turn + 1
            call.send(to)
        return call

    def take_retry(self) -> bool:
        """Whether the budget allows one more retry; if so it is paid."""
        if self.retries < 1:
            return False
        self.retries -= 1
        return True

    def suspect(self, server: TritonServer, problem: str) -> None:
        """Prefer the other servers to one that could not be connected to."""
        if len(self._servers) > 1:
            server.note_problem(problem)
        if self._is_dynamic and monotonic() - self._discovered_at > 1:
            self._discover_soon()

    async def probe(self, model_name: str, version: int, limit_seconds: float) -> None:
        """Ask every server now about a version, and note the answers."""
        state = self.version(model_name, version)
        await asyncio.gather(*(one.probe(limit_seconds) for one in state.on_servers))

    async def require_ready(self, model_name: str, version: int, limit_seconds: float) -> None:
        """Make sure, now, that every server that can be reached has a version READY.

        Raises:
            VersionNotReady: one does not have it READY.
            TritonUnavailable: none can be reached.
            DeadlineExceeded, BadUpstreamAnswer: one did not answer in time, or not sensibly.
        """
        await self._discover(limit_seconds)
        state = self.version(model_name, version)
        errors = await asyncio.gather(*(one.probe(limit_seconds) for one in state.on_servers))
        unreachable = [error for error in errors if isinstance(error, TritonUnavailable)]
        for error in errors:
            if error is not None and (error not in unreachable or len(unreachable) == len(errors)):
                raise error

    async def ready_versions(self, model_name: str, limit_seconds: float) -> tuple[int, ...]:
        """The versions of a model that every server that can be reached has READY, ascending.

        A server that cannot be reached is left out, since no request reaches it either; one that
        does not answer in time is not.

        Raises:
            TritonUnavailable: none can be reached.
            DeadlineExceeded, BadUpstreamAnswer: one did not answer in time, or not sensibly.
        """
        await self._discover(limit_seconds)

        async def ask(server: TritonServer) -> frozenset[int] | TritonUnavailable:
            try:
                return await server.ready_versions(model_name, limit_seconds)
            except TritonUnavailable as error:
                return error

        answers = await asyncio.gather(*map(ask, self._servers.values()))
        found = [answer for answer in answers if isinstance(answer, frozenset)]
        for answer in answers:
            if not found and isinstance(answer, TritonUnavailable):
                raise answer
        return tuple(sorted(frozenset.intersection(*found)))

    async def metadata(
        self, model_name: str, limit_seconds: float, version: int | None = None
    ) -> ModelMetadata | None:
        """Triton's description of a model; None when no version of it, or not this, is READY.

        Raises:
            TritonUnavailable, DeadlineExceeded, BadUpstreamAnswer: no server can tell.
        """
        return await self._first(
            lambda server: server.metadata(model_name, limit_seconds, version),
            lambda found: found is not None,
        )

    async def get(self, path: str, limit_seconds: float) -> TritonResponse:
        """A server's response to a GET of `path`, of any status.

        Raises:
            TritonUnavailable, DeadlineExceeded, BadUpstreamAnswer: no server can be asked.
        """
        return await self._first(
            lambda server: server.get(path, limit_seconds), lambda found: found.status == 200
        )

    async def _first(
        self,
        ask: Callable[[TritonServer], Awaitable[_Found]],
        is_wanted: Callable[[_Found], bool],
    ) -> _Found:
        """The first wanted answer of the servers, otherwise the last; those in trouble last."""
        servers = sorted(self._servers.values(), key=lambda one: one.problem is not None)
        for left, server in enumerate(servers, start=1 - len(servers)):
            try:
                found = await ask(server)
            except TritonUnavailable:
                if left == 0:
                    raise
            else:
                if left == 0 or is_wanted(found):
                    return found
        raise AssertionError("unreachable")

    # in the background, where there are several servers

    def _tick(self) -> None:
        if monotonic() - self._discovered_at >= _REFRESH_SECONDS:
            self._discover_soon()
        if self._recovering is None or self._recovering.done():
            self._recovering = self._spawn(self._recover())
        self._timer = self.loop.call_later(_RECOVERY_SECONDS, self._tick)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _recover(self) -> None:
        """Ask again where a version is not known to be READY: nothing else may ever do so."""
        views = [one for state in [*self._states.values()] for one in state.on_servers]
        waiting = [one for one in views if one.server.problem is not None or not one.is_ready]
        waiting.sort(key=lambda one: one.probed_at)
        for one in waiting[:_MAX_RECOVERY_PROBES]:
            one.probed_at = monotonic()
        probes = [one.probe(_RECOVERY_SECONDS) for one in waiting[:_MAX_RECOVERY_PROBES]]
        await asyncio.gather(*probes)

    def _discover_soon(self) -> None:
        if self._is_dynamic and (self._discovering is None or self._discovering.done()):
            self._discovered_at = monotonic()
            self._discovering = self._spawn(self._look_up())

    async def _discover(self, limit_seconds: float) -> None:
        """Look the servers up now; those known stay when that takes too long."""
        self._discover_soon()
        if self._discovering is not None:
            await asyncio.wait([self._discovering], timeout=limit_seconds)

    async def _look_up(self) -> None:
        try:
            urls = await server_urls(self._servers_url or self.url)
        except TritonUnavailable as error:
            log.warning("Triton's servers cannot be looked up", extra={"reason": error.message})
            return
        if not urls or set(urls) == set(self._servers):
            return
        self._retired = [one for one in self._retired if one.connections.busy]
        for url in set(self._servers) - set(urls):
            self._retired.append(self._servers.pop(url))
            self._retired[-1].retire()
        for url in urls:
            if url not in self._servers:
                self._add(url)
        servers = [*self._servers.values()]
        log.info("Triton's servers changed", extra={"servers": sorted(self._servers)})
        added = [one for state in [*self._states.values()] for one in state.follow(servers)]
        await asyncio.gather(*(one.probe(_VERIFY_SECONDS) for one in added))

    async def aclose(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in (*self._servers.values(), *self._retired):
            await server.aclose()
