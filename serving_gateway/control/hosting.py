"""The models that this replica hosts: one plane each, opened by a reload or found in the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from serving_gateway.contract import ReadyStatus, RemovalResponse, check_model_name
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.status import StatusReporter
from serving_gateway.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    StoreUnavailable,
    VariantUnavailable,
)
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.open_inference import OpenInference
from serving_gateway.inference.prediction import Predictor
from serving_gateway.inference.router import Router
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.store import Stores
from serving_gateway.replication.watcher import Watcher
from serving_gateway.tasks import is_being_cancelled

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class HostedModel:
    """All that this replica has for one model name; nothing runs before `start`."""

    model_name: str
    router: Router
    watcher: Watcher
    presence: Heartbeat
    mirror: Mirror
    predictor: Predictor
    control_plane: ControlPlane
    open_inference: OpenInference
    overview: StatusReporter
    forget: Callable[[], None]
    """Drops what is counted of the model."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Look once at store and Triton, then follow both in the background."""
        # One look before the first request: a gateway whose Triton is up starts ready.
        await self.watcher.start()
        task = asyncio.create_task(self.watcher.run(), name=f"plane of {self.model_name}")
        self.tasks.append(task)

    async def aclose(self) -> None:
        """Stop following, and tell the other replicas."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        self.mirror.close()
        await self.presence.leave()


class Hosting:
    """Finds the plane of a model, and opens those that the routing store knows.

    Args:
        default: the model of the unprefixed paths; hosted from the start.
        build: makes the plane of a model name, without starting it.
        stores: tells which models have a routing record.
        snapshots: where snapshots lie, which tell the models while the store is down.
        interval: seconds between two looks for models that another replica opened.
        limit: most models at one time.
    """

    def __init__(
        self,
        default: str,
        build: Callable[[str], HostedModel],
        stores: Stores,
        *,
        snapshots: Callable[[], frozenset[str]],
        interval: float,
        limit: int,
    ) -> None:
        self._build = build
        self._stores = stores
        self._snapshots = snapshots
        self._interval = interval
        self._limit = limit
        self._opening = asyncio.Lock()
        self._refused: frozenset[str] = frozenset()
        self._known: frozenset[str] = frozenset()
        self.default = build(default)
        self._planes = {default: self.default}

    @property
    def names(self) -> tuple[str, ...]:
        """The models hosted, in alphabetical order."""
        return tuple(sorted(self._planes))

    def plane(self, model_name: str) -> HostedModel:
        """The plane of a model.

        Raises:
            NotFound: the model is not hosted.
            VariantUnavailable: it is by others, and not yet, or no more, by this replica.
        """
        found = self._planes.get(model_name)
        if found is None and model_name in self._known:
            raise VariantUnavailable(
                f"This replica does not host {model_name!r} yet; others do.",
                code="model_not_open",
            )
        if found is None:
            raise NotFound(
                f"The gateway does not host {model_name!r}; it hosts {', '.join(self.names)}. A "
                "model is hosted from its first reload on.",
                code="unknown_model",
            )
        return found

    def answering(self, model_name: str) -> HostedModel:
        """The plane whose variants answer for a model of Triton.

        That is the plane of that name or, where variant B routes to a model of another name,
        the one that B belongs to.

        Raises:
            NotFound: no variant routes to it.
        """
        if model_name in self._planes:
            return self._planes[model_name]
        for plane in self._planes.values():
            for target in plane.router.table.targets.values():
                if target.model_name == model_name:
                    return plane
        return self.plane(model_name)

    def readiness(self) -> ReadyStatus:
        """Whether this replica should get traffic."""
        return self.default.overview.ready()

    async def remove(
        self, model_name: str, *, force: bool, by: str, reason: str | None
    ) -> RemovalResponse:
        """Host a model no longer."""
        raise NotImplementedError(model_name, force, by, reason)

    def still_served(self, model_name: str | None = None) -> dict[str, int]:
        """Versions by variant that a model (default: the default one) is routed to."""
        plane = self.default if model_name is None else self._planes.get(model_name)
        return {} if plane is None else plane.router.still_served()

    @contextlib.asynccontextmanager
    async def opened(self, model_name: str) -> AsyncIterator[HostedModel]:
        """The plane of a model that may be new: it stays only if it then has a record.

        Raises:
            InvalidInput: that can be no model's name.
            Conflict: as many models as may be are hosted already.
        """
        if model_name in self._planes:
            yield self._planes[model_name]
            return
        try:
            check_model_name(model_name)
        except ValueError as error:
            raise InvalidInput(f"{error}.", field="model_name", code="bad_model_name") from error
        async with self._opening:
            if model_name in self._planes:
                yield self._planes[model_name]
                return
            self._check_room(model_name)
            plane = self._build(model_name)
            started = False
            try:
                await plane.start()
                started = True
                yield plane
            finally:
                if started and plane.router.table.record.generation > 0:
                    self._planes[model_name] = plane
                    log.info("a model is hosted", extra={"model_name": model_name})
                else:
                    await plane.aclose()
                    plane.forget()

    async def start(self) -> None:
        """Start all planes that the store knows; without it, those with a snapshot."""
        await asyncio.gather(self.default.start(), self._find(without_store=True))

    async def run(self) -> None:
        """Open what other replicas opened, until cancelled."""
        while not is_being_cancelled():
            await asyncio.sleep(self._interval)
            try:
                await self._find()
            except Exception:
                # A bug in here must not end the only thing that finds models.
                log.exception("looking for models failed; it goes on")

    async def aclose(self) -> None:
        """Stop all planes."""
        await asyncio.gather(*(plane.aclose() for plane in self._planes.values()))

    def _check_room(self, model_name: str) -> None:
        if len(self._planes) >= self._limit:
            raise Conflict(
                f"The gateway hosts {len(self._planes)} models, as many as GATEWAY_MAX_MODELS "
                f"allows; {model_name!r} is not taken.",
                code="too_many_models",
            )

    async def _find(self, *, without_store: bool = False) -> None:
        try:
            names = await self._stores.names()
        except StoreUnavailable:  # each plane tells so
            if not without_store:
                return
            names = self._snapshots()
        self._known = names
        if names <= self._planes.keys() | self._refused:
            return
        async with self._opening:
            wanted = sorted(names - self._planes.keys())
            room = self._limit - len(self._planes)
            self._refused = frozenset(wanted[room:])
            if self._refused:
                log.error(
                    "models of the routing store are not hosted: GATEWAY_MAX_MODELS is reached",
                    extra={"models": sorted(self._refused)},
                )
            await asyncio.gather(*(self._open(name) for name in wanted[:room]))

    async def _open(self, model_name: str) -> None:
        plane = self._build(model_name)
        try:
            await plane.start()
        except Exception:
            # One model's trouble is not the others'; the next look tries it again.
            log.exception("a model cannot be hosted", extra={"model_name": model_name})
            await plane.aclose()
            plane.forget()
            return
        self._planes[model_name] = plane
        log.info("a model is hosted", extra={"model_name": model_name})
