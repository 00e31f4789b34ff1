"""The models that this replica hosts: opened by a reload, or found in the routing store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

from serving_gateway.contract import ReadyStatus, RemovalResponse, RoutingRecord, check_model_name
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.release_control import ReleaseControl
from serving_gateway.control.release_report import ReleaseReporter
from serving_gateway.control.release_watch import ReleaseWatch
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
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.replication.replicas import ModelReport
from serving_gateway.replication.store import RoutingStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class HostedModel:
    """Everything that this replica has for one model name."""

    model_name: str
    router: Router
    mirror: Mirror
    predictor: Predictor
    control_plane: ControlPlane
    open_inference: OpenInference
    status: StatusReporter
    release: ReleaseControl
    release_watch: ReleaseWatch
    release_report: ReleaseReporter


class Hosting:
    """Finds the hosted model of a request, and opens those that the routing store knows.

    `build` creates what a model needs without starting anything; the `default` model is hosted from
    the start. `pending` says why some records have not been read and probed yet, `forget` drops a
    model's counts, and `limit` is the maximum number of models.
    """

    def __init__(
        self,
        default: str,
        build: Callable[[str], HostedModel],
        store: RoutingStore,
        lifecycle: Lifecycle,
        *,
        pending: Callable[[], str | None],
        forget: Callable[[str], None],
        limit: int,
    ) -> None:
        self._build = build
        self._store = store
        self._lifecycle = lifecycle
        self._pending = pending
        self._forget = forget
        self._limit = limit
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._opening: set[str] = set()
        self._hosted_elsewhere: set[str] = set()
        self.default = build(default)
        self._models = {default: self.default}

    @property
    def models(self) -> tuple[HostedModel, ...]:
        """The hosted models."""
        return tuple(self._models.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the hosted models, in alphabetical order."""
        return tuple(sorted(self._models))

    def find(self, model_name: str) -> HostedModel:
        """A hosted model, else `NotFound`; `VariantUnavailable` if only other replicas host it."""
        if (model := self._models.get(model_name)) is not None:
            return model
        if model_name in self._hosted_elsewhere:
            raise VariantUnavailable(
                f"This replica does not host {model_name!r} yet; others do.",
                code="model_not_open",
            )
        raise NotFound(
            f"The gateway does not host {model_name!r}; it hosts {', '.join(self.names)}. A "
            "model is hosted from its first reload on.",
            code="unknown_model",
        )

    def resolve(self, model_name: str) -> HostedModel:
        """As `find`, or the hosted model whose variant B routes to a Triton model of this name."""
        if model_name not in self._models:
            for model in self._models.values():
                for target in model.router.table.targets.values():
                    if target.model_name == model_name:
                        return model
        return self.find(model_name)

    def still_served(self, model_name: str | None = None) -> dict[str, int]:
        """The versions that a model, by default the default model, routes to, by variant."""
        model = self.default if model_name is None else self._models.get(model_name)
        return {} if model is None else model.router.still_served()

    def readiness(self) -> ReadyStatus:
        """Whether this replica should get traffic: yes, once every version was probed."""
        reasons = ["the gateway is shutting down"] if self._lifecycle.draining else []
        if (pending := self._pending()) is not None:
            reasons.append(pending)
        unready = {name: model.router.unready_reasons() for name, model in self._models.items()}
        models = {name: why for name, why in sorted(unready.items()) if why}
        status = "not ready" if reasons else "ready"
        return ReadyStatus(status, tuple(reasons), {} if self._lifecycle.draining else models)

    def reports(self) -> Mapping[str, ModelReport]:
        """What this replica reports about each hosted model."""
        return {name: model.router.report() for name, model in self._models.items()}

    def versions(self) -> Iterator[tuple[VersionClient, bool]]:
        """All routed versions, and whether each is urgent to probe."""
        for name, model in self._models.items():
            router = model.router
            urgent = name == self.default.model_name or bool(router.recent_traffic())
            for target in router.table.targets.values():
                yield target.client, urgent

    def record(self, model_name: str) -> RoutingRecord | None:
        """The record that a model is routed by, generation 0 before the first; None: not hosted."""
        model = self._models.get(model_name)
        return None if model is None else model.router.record

    @contextlib.asynccontextmanager
    async def open_model(self, model_name: str) -> AsyncIterator[HostedModel]:
        """Yield a model that may be new; it stays hosted only if it has a record afterwards.

        `InvalidInput` when the name is not valid, `Conflict` when `limit` models are hosted
        already.
        """
        try:
            check_model_name(model_name)
        except ValueError as error:
            raise InvalidInput(f"{error}.", field="model_name", code="bad_model_name") from error
        async with self._locks.setdefault(model_name, asyncio.Lock()):
            if model_name in self._models:
                yield self._models[model_name]
                return
            if not self._has_room():
                raise Conflict(
                    f"The gateway hosts {len(self._models)} models, as many as GATEWAY_MAX_MODELS "
                    f"allows; {model_name!r} is not accepted.",
                    code="too_many_models",
                )
            with self._open(model_name) as model:
                with contextlib.suppress(StoreUnavailable):  # the change itself reports that
                    await model.router.follow(await self._store.read(model_name))
                yield model

    async def host(self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None) -> None:
        """Route a model by a record of another replica, or of this one's past (`Router.follow`).

        Nothing is done during a model's first reload here, which adopts its own record.
        """
        name = record.model_name
        lock = self._locks.setdefault(name, asyncio.Lock())
        if name not in self._models and not lock.locked():
            async with lock:
                if name not in self._models:
                    await self._host_new(record)
                    return
        if name in self._models:
            await self._models[name].router.follow(record, instead_of=instead_of)

    async def _host_new(self, record: RoutingRecord) -> None:
        name = record.model_name
        is_new = name not in self._hosted_elsewhere
        self._hosted_elsewhere.add(name)
        if self._has_room():
            with self._open(name) as model:
                await model.router.follow(record)
                self._add(model)
        elif is_new:
            log.error(
                "a model of the routing store is not hosted: GATEWAY_MAX_MODELS is reached",
                extra={"model": name},
            )

    @contextlib.contextmanager
    def _open(self, model_name: str) -> Iterator[HostedModel]:
        """Yield a new model, which stays hosted if it has a record afterwards."""
        self._opening.add(model_name)
        model = self._build(model_name)
        try:
            yield model
        finally:
            self._opening.discard(model_name)
            if model_name not in self._models:
                if model.router.still_served():
                    self._add(model)
                else:
                    self._forget(model_name)

    async def unhost(self, model_name: str) -> None:
        """Stop hosting a removed model; the default model stays, without a version."""
        self._hosted_elsewhere.discard(model_name)
        if model_name == self.default.model_name or model_name not in self._models:
            return
        self._models.pop(model_name).mirror.close()
        self._forget(model_name)
        log.info("a model is no longer hosted", extra={"model": model_name})

    async def remove(
        self, model_name: str, *, force: bool, by: str, reason: str | None
    ) -> RemovalResponse:
        """Remove a model from all replicas; see `ControlPlane.remove`."""
        control = self.find(model_name).control_plane
        response = await control.remove(force=force, by=by, reason=reason)
        await self.unhost(model_name)
        return response

    def close(self) -> None:
        """Drop the copies that wait for B."""
        for model in self._models.values():
            model.mirror.close()

    def _add(self, model: HostedModel) -> None:
        self._models[model.model_name] = model
        self._hosted_elsewhere.discard(model.model_name)
        log.info("a model is hosted", extra={"model": model.model_name})

    def _has_room(self) -> bool:
        return len(self._models) + len(self._opening) < self._limit
