"""The one place that wires the gateway together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI

from serving_gateway.contract import ReplicaIdentity, RoutingRecord
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.hosting import HostedModel, Hosting
from serving_gateway.control.registry import Registry, registry_from
from serving_gateway.control.status import StatusReporter
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import FeatureStore
from serving_gateway.http.app import build
from serving_gateway.http.asgi import Gateway
from serving_gateway.http.server import begin_lame_duck_on_signal
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.open_inference import OpenInference
from serving_gateway.inference.prediction import DataPlane
from serving_gateway.inference.prober import Prober
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.shadow import Ledger
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.losses import Losses
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.redis_store import RedisStore
from serving_gateway.replication.replicas import this_process
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.replication.store import RoutingStore
from serving_gateway.replication.watcher import Watcher
from serving_gateway.settings import Settings
from serving_gateway.tasks import Supervisor
from serving_gateway.telemetry import logs
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.telemetry.sample_files import SampleWriter
from serving_gateway.telemetry.samples import ModelSamples, SampleQueue
from serving_gateway.triton.client_pool import TritonClientPool

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing


_START_SECONDS: Final = 5.0
"""Longest that a start waits for the store, Triton and the feature store; the rest of it goes on
in the background, and /ready says what is missing (I9)."""


def create_app(
    settings: Settings,
    *,
    store: RoutingStore | None = None,
    registry: Registry | None = None,
    own_signals: bool = False,
) -> Gateway:
    """Build the application; nothing is connected before its lifespan starts.

    Args:
        settings: everything that can be set.
        store: where routing records are kept; by default what the settings name.
        registry: where versions are recorded; by default what the settings name.
        own_signals: whether the process is the gateway's own, so that SIGTERM is its to handle.
    """
    feast = None if settings.feast_dir is None else FeastStore(settings.feast_dir)
    identity = this_process()
    tracing = tracing_from(settings, identity)
    supervisor = Supervisor()
    routing = store or store_from(settings)
    losses = Losses()
    watcher = Watcher(
        routing, Snapshots(settings.state_dir), losses, interval=settings.watch_seconds
    )
    shared = _Shared(
        settings=settings,
        store=routing,
        registry=registry or registry_from(settings),
        tritons=TritonClientPool(
            connections=settings.triton_connections,
            connect_seconds=settings.triton_connect_seconds,
            servers={settings.triton_url: settings.triton_servers_url},
            tracing=tracing,
        ),
        lifecycle=Lifecycle(),
        metrics=Metrics(),
        watcher=watcher,
        losses=losses,
        heartbeat=Heartbeat(
            routing,
            identity,
            keep_seconds=settings.replica_seconds,
            interval=settings.watch_seconds,
        ),
        prober=Prober(interval=settings.watch_seconds),
        features=None if feast is None else feature_reader(feast, settings),
        samples=None if settings.sample_dir is None else SampleQueue(settings.sample_queue_rows),
    )
    writer = sample_writer(shared)
    hosting = Hosting(
        settings.model_name,
        lambda name: _hosted_model(name, shared, lambda: hosting.names),
        routing,
        supervisor,
        shared.lifecycle,
        pending=lambda: watcher.pending,
        forget=shared.metrics.forget,
        limit=settings.max_models,
    )
    control = build(settings, hosting, shared.metrics)
    gateway = Gateway(settings, hosting, shared.lifecycle, control, shared.metrics, tracing)
    shared.metrics.hosted = lambda: hosting.names
    shared.metrics.features = shared.features
    shared.metrics.info.info({"replica": identity.id})
    shared.metrics.in_flight = lambda: gateway.in_flight

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if writer is not None:
            await asyncio.to_thread(writer.start)
        hosting.start()
        supervisor.start("prober", lambda: shared.prober.run(hosting.versions))
        supervisor.start("watcher", lambda: watcher.run(hosting))
        supervisor.start("subscription", watcher.listen)
        supervisor.start("snapshots", watcher.keep_snapshots)
        supervisor.start("heartbeat", lambda: shared.heartbeat.run(hosting.reports))
        opening = [asyncio.create_task(watcher.first_pass(_START_SECONDS), name="first pass")]
        if feast is not None:
            # Its import would take the time of the first requests. Whether the store is there
            # does not matter for the start: look-ups are tried again.
            opening.append(asyncio.create_task(feast.prepare(), name="feature store"))
        await asyncio.wait(opening, timeout=_START_SECONDS)
        if feast is not None:
            supervisor.start("feature store", feast.run, may_end=True)
        # What is there by now stays: without this each full collection of garbage would look
        # through it, and requests would wait for that.
        gc.collect()
        gc.freeze()
        if own_signals:
            begin_lame_duck_on_signal(shared.lifecycle, settings.drain_seconds)
        try:
            yield
        finally:
            shared.lifecycle.draining = True
            await supervisor.stop(*opening)
            await supervisor.aclose()
            await shared.aclose()
            if writer is not None:
                await asyncio.to_thread(writer.close)
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    control.router.lifespan_context = lifespan
    return gateway


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all hosted models of a process share."""

    settings: Settings
    store: RoutingStore
    registry: Registry | None
    tritons: TritonClientPool
    lifecycle: Lifecycle
    metrics: Metrics
    watcher: Watcher
    losses: Losses
    heartbeat: Heartbeat
    prober: Prober
    features: FeatureReader | None
    samples: SampleQueue | None

    async def aclose(self) -> None:
        await self.heartbeat.leave()
        if self.features is not None:
            await self.features.aclose()
        await self.tritons.aclose()
        if self.registry is not None:
            await self.registry.aclose()
        await self.store.aclose()


def _hosted_model(
    model_name: str, shared: _Shared, names: Callable[[], tuple[str, ...]]
) -> HostedModel:
    """All that one model needs, wired; nothing runs."""
    settings, metrics = shared.settings, shared.metrics.model(model_name)
    watcher, features = shared.watcher, shared.features

    def adopted(record: RoutingRecord) -> None:
        watcher.keep(record)
        shared.heartbeat.wake()

    def wake() -> None:
        shared.prober.wake(target.client for target in router.table.targets.values())
        watcher.wake(model_name)

    router = Router(
        model_name,
        settings,
        shared.tritons,
        shared.lifecycle,
        metrics,
        record_problem=lambda: watcher.problem(model_name) or watcher.pending,
        on_adopt=adopted,
        on_services=None if features is None else features.expect,
    )
    ledger = Ledger(settings.shadow_examples)
    mirror = Mirror(
        metrics,
        ledger,
        queue=settings.mirror_queue,
        in_flight=settings.mirror_in_flight,
        gather_seconds=settings.mirror_gather_seconds,
    )
    if shared.samples is not None:
        metrics.samples = ModelSamples(shared.samples, settings.sample_fraction)
    metrics.watch(router.routed, ledger)
    return HostedModel(
        model_name=model_name,
        router=router,
        mirror=mirror,
        data_plane=DataPlane(settings, router, mirror, wake, metrics, features, metrics.samples),
        control_plane=ControlPlane(
            settings,
            router,
            shared.store,
            shared.heartbeat,
            shared.losses,
            shared.registry,
            metrics,
            features,
        ),
        open_inference=OpenInference(settings, router, wake, metrics),
        status=StatusReporter(
            settings,
            router,
            shared.heartbeat,
            ledger,
            names=names,
            store_problem=lambda: watcher.problem(model_name),
        ),
    )


def feature_reader(store: FeatureStore, settings: Settings) -> FeatureReader:
    """Look-ups in a feature store, within the settings' limits."""
    return FeatureReader(
        store,
        limit_seconds=settings.feature_seconds,
        failures=settings.feature_failures,
        open_seconds=settings.feature_pause_seconds,
    )


def sample_writer(shared: _Shared) -> SampleWriter | None:
    """What writes samples, not started; None where nothing is sampled."""
    settings = shared.settings
    if settings.sample_dir is None or shared.samples is None:
        return None
    return SampleWriter(
        shared.samples,
        settings.sample_dir,
        shared.heartbeat.identity.id,
        rows_per_file=settings.sample_rows_per_file,
        seconds=settings.sample_seconds,
        max_bytes=settings.sample_max_bytes,
    )


def tracing_from(settings: Settings, identity: ReplicaIdentity) -> Tracing | None:
    """What makes traces; None, and nothing of it imported, where the settings name no collector."""
    if settings.otlp_endpoint is None:
        return None
    from serving_gateway.telemetry.tracing import Tracing

    return Tracing(settings.otlp_endpoint, settings.trace_fraction, identity.id)


def store_from(settings: Settings) -> RoutingStore:
    """The routing store that the settings name; nothing is connected yet."""
    if settings.redis_url is None:
        return FileStore(settings.state_dir)
    return RedisStore(RedisConnection(settings.redis_url, limit_seconds=settings.store_seconds))


def app_from_environment() -> Gateway:
    """The application for `uvicorn --factory serving_gateway.main:app_from_environment`."""
    settings = Settings()
    logs.configure(settings.log_level)
    return create_app(settings, own_signals=True)
