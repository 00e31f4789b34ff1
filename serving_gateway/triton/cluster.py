"""Every Triton server behind one address: which there are, and which one is asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from serving_gateway.errors import TritonUnavailable, VariantUnavailable
from serving_gateway.triton.discovery import listed_urls, server_urls
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.inference_call import (
    MAX_RETRIES,
    VERIFY_SECONDS,
    InferenceCall,
    InferenceDone,
)
from serving_gateway.triton.protocol import TritonModelMetadata
from serving_gateway.triton.server import ServerLimits, TritonServer
from serving_gateway.triton.version_state import VersionState

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_Found = TypeVar("_Found")
_REFRESH_SECONDS: Final = 5.0
_RECOVERY_SECONDS: Final = 1.0
_MAX_RECOVERY_PROBES: Final = 25


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
        self.retries = MAX_RETRIES
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

    def _add(self, url: str, server_name: str | None = None) -> None:
        server = self._servers[url] = TritonServer(url, self._limits, server_name)
        server.on_change = self._refresh_states

    def _refresh_states(self) -> None:
        for state in [*self._states.values()]:
            state.refresh()

    def version(self, model_name: str, version: int) -> VersionState:
        """What is known of a version; the same object as long as it is referenced."""
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
    ) -> TritonModelMetadata | None:
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
                self._add(url, urlsplit(self._servers_url or self.url).hostname)
        servers = [*self._servers.values()]
        log.info("Triton's servers changed", extra={"servers": sorted(self._servers)})
        added = [one for state in [*self._states.values()] for one in state.follow(servers)]
        await asyncio.gather(*(one.probe(VERIFY_SECONDS) for one in added))

    async def aclose(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in (*self._servers.values(), *self._retired):
            await server.aclose()
