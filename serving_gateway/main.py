"""The one place that wires the gateway together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import ReplicaIdentity, RoutingRecord
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.hosting import HostedModel, Hosting
from serving_gateway.control.record_writer import RecordWriter
from serving_gateway.control.registry import Registry, registry_from
from serving_gateway.control.status import StatusReporter
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import FeatureStore
from serving_gateway.http.app import build
from serving_gateway.http.connection import ConnectionPolicy
from serving_gateway.http.control_token import configured_tokens, ensure_token
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.http.middleware import RequestObserver
from serving_gateway.http.security import Access, SourceRules
from serving_gateway.http.server import begin_lame_duck_on_signal
from serving_gateway.inference.dispatcher import Dispatcher
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.offload import Offload
from serving_gateway.inference.open_inference import OpenInference
from serving_gateway.inference.prediction import Predictor
from serving_gateway.inference.prober import Prober
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.shadow import ShadowStatistics
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
from serving_gateway.tasks import TaskSupervisor
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.telemetry.sample_files import SampleWriter
from serving_gateway.telemetry.samples import ModelSamples, SampleQueue
from serving_gateway.triton.client_pool import TritonClientPool

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

_START_SECONDS: Final = 5.0
"""Longest that a start waits for the store, Triton and the feature store; the rest of it goes on
in the background, and /ready says what is missing (I9)."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the server runs: an ASGI application, and the connections in front of it."""

    app: RequestObserver
    connections: ConnectionPolicy


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
    features = None if feast is None else feature_reader(feast, settings)
    identity = this_process()
    queue_budget = ByteBudget(settings.max_queued_bytes)
    tracing = tracing_from(settings, identity)
    metrics = Metrics(identity.id, features)
    supervisor = TaskSupervisor(lambda name: metrics.task_restarts.labels(name).inc())
    routing, losses = store or store_from(settings), Losses(metrics.record_losses)
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
            staleness_seconds=settings.staleness_seconds,
            servers=settings.triton_servers,
            tracing=tracing,
        ),
        lifecycle=Lifecycle(),
        metrics=metrics,
        watcher=watcher,
        losses=losses,
        heartbeat=Heartbeat(
            routing,
            identity,
            keep_seconds=settings.replica_seconds,
            interval=settings.watch_seconds,
        ),
        prober=Prober(interval=settings.watch_seconds),
        features=features,
        samples=None
        if settings.sample_dir is None
        else SampleQueue(settings.sample_queue_rows, settings.sample_queue_bytes),
        offload=Offload(queue_budget),
        queue_budget=queue_budget,
        mirror_budget=ByteBudget(settings.mirror_queue_bytes),
    )
    writer = sample_writer(shared)
    hosting = Hosting(
        settings.model_name,
        lambda name: _hosted_model(name, shared, lambda: hosting.names),
        routing,
        shared.lifecycle,
        pending=lambda: watcher.pending,
        forget=metrics.forget,
        limit=settings.max_models,
    )
    tokens = configured_tokens(settings)
    sources = SourceRules(settings.host, settings.allowed_hosts, settings.cors_origins)
    access = Access(tokens, settings.api_keys, sources)
    endpoint = InferenceEndpoint(
        settings, hosting, shared.lifecycle, access.data, shared.metrics, tracing
    )
    connections = ConnectionPolicy(
        endpoint,
        ByteBudget(settings.max_pending_bytes),
        max_head_bytes=settings.max_head_bytes,
        max_body_bytes=settings.max_body_bytes,
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
    )
    app = build(settings, hosting, shared.metrics, access, endpoint)
    observer = RequestObserver(
        app, shared.lifecycle, shared.metrics, access_log=settings.access_log
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ensure_token(settings, tokens)
        if writer is not None:
            await asyncio.to_thread(writer.start)
        supervisor.start("connections", connections.sweep)
        await _start(shared, hosting, supervisor)
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
            await supervisor.aclose()
            hosting.close()
            shared.offload.close()
            await shared.aclose()
            if writer is not None:
                await asyncio.to_thread(writer.close)
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app.router.lifespan_context = lifespan
    return Gateway(observer, connections)


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
    offload: Offload
    queue_budget: ByteBudget
    mirror_budget: ByteBudget

    async def aclose(self) -> None:
        await self.heartbeat.leave()
        if self.features is not None:
            await self.features.aclose()
        await self.tritons.aclose()
        if self.registry is not None:
            await self.registry.aclose()
        await self.store.aclose()


async def _start(shared: _Shared, hosting: Hosting, supervisor: TaskSupervisor) -> None:
    """Start what runs in the background, and wait a little for what requests need."""
    watcher, features = shared.watcher, shared.features
    supervisor.start("prober", lambda: shared.prober.run(hosting.versions))
    supervisor.start("watcher", lambda: watcher.run(hosting))
    supervisor.start("subscription", watcher.listen)
    supervisor.start("snapshots", watcher.keep_snapshots)
    supervisor.start("heartbeat", lambda: shared.heartbeat.run(hosting.reports))
    opening = [supervisor.start("first pass", watcher.first_pass, may_end=True)]
    if features is not None:
        # The import of Feast would take the time of the first requests.
        opening.append(supervisor.start("features", features.prepare, may_end=True))
    await asyncio.wait(opening, timeout=_START_SECONDS)


def _hosted_model(
    model_name: str, shared: _Shared, names: Callable[[], tuple[str, ...]]
) -> HostedModel:
    """All that one model needs, wired; nothing runs."""
    settings, metrics = shared.settings, shared.metrics.model(model_name)
    watcher, features, heartbeat = shared.watcher, shared.features, shared.heartbeat

    def adopted(record: RoutingRecord) -> None:
        watcher.keep(record)
        heartbeat.wake()

    def probe() -> None:
        shared.prober.wake(target.client for target in router.table.targets.values())

    def wake() -> None:
        probe()
        watcher.wake(model_name)

    router = Router(
        model_name,
        settings,
        shared.tritons,
        shared.lifecycle,
        metrics,
        shared.queue_budget,
        record_problem=lambda: watcher.pending or watcher.problem(model_name),
        on_adopt=adopted,
        on_services=None if features is None else features.expect,
    )
    ledger = ShadowStatistics(settings.shadow_examples)
    mirror = Mirror(settings, router, metrics, ledger, shared.mirror_budget)
    dispatcher = Dispatcher(router, wake, probe, metrics.fallbacks.inc)
    samples = None
    if shared.samples is not None:
        metrics.samples = samples = ModelSamples(shared.samples, settings.sample_fraction)
    metrics.watch(router.routed, ledger.state)
    return HostedModel(
        model_name=model_name,
        router=router,
        mirror=mirror,
        predictor=Predictor(
            settings, dispatcher, mirror, metrics, shared.offload, features, samples
        ),
        control_plane=ControlPlane(
            settings,
            router,
            RecordWriter(router, shared.store, shared.losses),
            heartbeat,
            shared.registry,
            metrics,
            features,
        ),
        open_inference=OpenInference(settings, dispatcher, shared.offload),
        status=StatusReporter(
            settings,
            router,
            heartbeat,
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
        prepare_seconds=settings.feature_prepare_seconds,
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
        max_buffered_bytes=settings.sample_queue_bytes,
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
    connection = RedisConnection(
        settings.redis_url,
        limit_seconds=settings.store_seconds,
        pause_seconds=min(1.0, settings.watch_seconds),
    )
    return RedisStore(connection)
