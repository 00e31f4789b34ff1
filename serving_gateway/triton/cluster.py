"""Every Triton server behind one address: which servers there are, and which one is asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from weakref import WeakSet, WeakValueDictionary

from serving_gateway.contract import ModelMetadata
from serving_gateway.errors import GatewayError, TritonUnavailable
from serving_gateway.settings import Settings
from serving_gateway.triton.discovery import server_urls
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.inference_call import (
    MAX_RETRIES,
    VERIFY_SECONDS,
    InferenceCall,
    InferenceDone,
)
from serving_gateway.triton.protocol import read_metadata
from serving_gateway.triton.server import TritonServer
from serving_gateway.triton.version_state import VersionState

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_REFRESH_SECONDS: Final = 5.0
_RECOVERY_SECONDS: Final = 1.0
_MAX_RECOVERY_PROBES: Final = 25


class TritonCluster:
    """Every Triton server behind one address.

    `servers_url` is addresses separated by commas, or a name that resolves to every server; None
    where `url` is one server. `prefix` is the servers' path in front of /v2, `retries` how many the
    budget allows at this moment.
    """

    def __init__(
        self,
        url: str,
        settings: Settings,
        servers_url: str | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.url = url
        self.authority = urlsplit(url).netloc
        self.prefix = urlsplit(url).path.rstrip("/")
        self.tracing = tracing
        self.loop = asyncio.get_running_loop()
        self.retries = MAX_RETRIES
        self._settings = settings
        listed = [] if servers_url is None else servers_url.split(",")
        self._name = listed[0] if len(listed) == 1 else None
        """The name that resolves to every server, where they are found by one."""
        self._states: WeakValueDictionary[tuple[str, int], VersionState] = WeakValueDictionary()
        self._turn = 0
        self._servers: dict[str, TritonServer] = {}
        self._retired: WeakSet[TritonServer] = WeakSet()
        for server_url in listed if len(listed) > 1 else [url]:
            self._add(server_url)
        self._discovered_at = 0.0
        self._discovery: asyncio.Task[None] | None = None
        self._watch_task = None if servers_url is None else self.loop.create_task(self._watch())

    def _add(self, url: str, server_name: str | None = None) -> None:
        self._servers[url] = TritonServer(url, self._settings, self._refresh_states, server_name)

    def _refresh_states(self) -> None:
        for state in [*self._states.values()]:
            state.refresh()

    def version(self, model_name: str, version: int) -> VersionState:
        """What is known about a version; the same object as long as it is referenced."""
        state = self._states.get((model_name, version))
        if state is None:
            state = VersionState(model_name, version, [*self._servers.values()])
            self._states[model_name, version] = state
        return state

    def infer(
        self,
        state: VersionState,
        request: bytes,
        deadline: float,
        done: InferenceDone,
        repeatable: bool = True,
    ) -> InferenceCall:
        """Send a complete HTTP request to a server that has the version of `state` READY.

        After `deadline`, by the loop's clock, nothing is tried again; the caller abandons the call
        then. `done` is called once, never before this returns; once more, with an error, if it
        raised. A request that is not `repeatable`, as one of a sequence, is not executed twice.
        """
        call = InferenceCall(self, state, request, deadline, done, repeatable)
        to = state.choose()
        if to is None:
            self.loop.call_soon(call.finish, state.unavailable())
        else:
            self._turn = to.turn = self._turn + 1
            call.send(to)
        return call

    def take_retry(self) -> bool:
        """Spend one retry of the budget; False when there is none."""
        if self.retries < 1:
            return False
        self.retries -= 1
        return True

    def suspect(self, server: TritonServer, problem: str) -> None:
        """Prefer the other servers to one that could not be connected to."""
        if len(self._servers) > 1:
            server.note_problem(problem)
        if monotonic() - self._discovered_at > 1:
            self._discover_soon()

    async def require_ready(self, model_name: str, version: int, limit_seconds: float) -> None:
        """Make sure, now, that every server that can be reached has a version READY.

        `VersionNotReady` when one does not, `TritonUnavailable` when none can be reached, and
        `DeadlineExceeded` or `BadUpstreamAnswer` when one answers too late or with nonsense.
        """
        await self._discover(limit_seconds)
        _check(await self.version(model_name, version).probe(limit_seconds))

    async def ready_versions(self, model_name: str, limit_seconds: float) -> tuple[int, ...]:
        """The versions of a model that every reachable server has READY, ascending."""
        await self._discover(limit_seconds)

        async def ask(server: TritonServer) -> set[int]:
            response = await server.get(f"/v2/models/{model_name}", limit_seconds)
            metadata = read_metadata(response, server.url)
            versions = () if metadata is None else metadata.versions
            return {int(text) for text in versions if text.isdecimal() and len(text) <= 18}

        queries = map(ask, self._servers.values())
        answers = await asyncio.gather(*queries, return_exceptions=True)
        _check(answers)
        ready = [answer for answer in answers if isinstance(answer, set)]
        return tuple(sorted(set.intersection(*ready)))

    async def metadata(
        self, model_name: str, limit_seconds: float, version: int
    ) -> ModelMetadata | None:
        """Triton's description of a version; None when it is not READY; raises like `get`."""
        path = f"/v2/models/{model_name}/versions/{version}"
        return read_metadata(await self.get(path, limit_seconds), self.url)

    async def get(self, path: str, limit_seconds: float) -> TritonResponse:
        """The first response of status 200 to a GET, else the last server's, or its error.

        Each server has `limit_seconds`; healthy ones are asked first.
        """
        *others, last = sorted(self._servers.values(), key=lambda one: one.problem is not None)
        for server in others:
            with contextlib.suppress(GatewayError):
                response = await server.get(path, limit_seconds)
                if response.status == 200:
                    return response
        return await last.get(path, limit_seconds)

    async def _watch(self) -> None:
        """Follow the servers, where there are several, and the state of their versions."""
        while True:
            try:
                if monotonic() - self._discovered_at >= _REFRESH_SECONDS:
                    self._discover_soon()
                await self._recover()
            except Exception:
                log.exception("Triton's servers could not be watched")
            await asyncio.sleep(_RECOVERY_SECONDS)

    async def _recover(self) -> None:
        """Ask again where a version is not known to be READY: nothing else may ever do so."""
        views = [view for state in [*self._states.values()] for view in state.on_servers]
        waiting = [view for view in views if view.server.problem is not None or not view.is_ready]
        waiting.sort(key=lambda view: view.probed_at)
        probes = [view.probe(_RECOVERY_SECONDS) for view in waiting[:_MAX_RECOVERY_PROBES]]
        await asyncio.gather(*probes)

    def _discover_soon(self) -> None:
        if self._name is not None and (self._discovery is None or self._discovery.done()):
            self._discovered_at = monotonic()
            self._discovery = self.loop.create_task(self._look_up(self._name))

    async def _discover(self, limit_seconds: float) -> None:
        """Look the servers up now; the known ones remain if that takes too long."""
        self._discover_soon()
        if self._discovery is not None:
            await asyncio.wait([self._discovery], timeout=limit_seconds)

    async def _look_up(self, name: str) -> None:
        try:
            urls = await server_urls(name)
        except TritonUnavailable as error:
            log.warning("Triton's servers cannot be looked up", extra={"reason": error.message})
            return
        if not urls or set(urls) == set(self._servers):
            return
        for url in self._servers.keys() - set(urls):
            server = self._servers.pop(url)
            server.retire()
            self._retired.add(server)
        for url in sorted(set(urls) - self._servers.keys()):
            self._add(url, urlsplit(name).hostname)
        servers = [*self._servers.values()]
        log.info("Triton's servers changed", extra={"servers": sorted(self._servers)})
        added = [view for state in [*self._states.values()] for view in state.follow(servers)]
        await asyncio.gather(*(view.probe(VERIFY_SECONDS) for view in added))

    async def aclose(self) -> None:
        """Close all connections."""
        tasks = [task for task in (self._watch_task, self._discovery) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in (*self._servers.values(), *self._retired):
            await server.aclose()


class TritonClusters:
    """The clusters of Triton servers in use, one for each address."""

    def __init__(self, settings: Settings, tracing: Tracing | None = None) -> None:
        self._settings = settings
        self._tracing = tracing
        self._clusters: dict[str, TritonCluster] = {}

    def get(self, url: str) -> TritonCluster:
        """The servers behind an address."""
        if url not in self._clusters:
            servers_url = self._settings.triton_servers.get(url)
            self._clusters[url] = TritonCluster(url, self._settings, servers_url, self._tracing)
        return self._clusters[url]

    async def aclose(self) -> None:
        """Close all connections."""
        for cluster in self._clusters.values():
            await cluster.aclose()


def _check(answers: Sequence[object]) -> None:
    """Raise the first error, if any, of a query to every server.

    A server that cannot be reached is ignored while others can be, since no request reaches it
    either; one that does not answer in time is not ignored.
    """
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    serious = [error for error in errors if not isinstance(error, TritonUnavailable)]
    for error in serious or (errors if len(errors) == len(answers) else []):
        raise error
