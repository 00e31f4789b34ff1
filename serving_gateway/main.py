"""The one place that wires the gateway together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import ReplicaIdentity
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.hosting import HostedModel, Hosting
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
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.shadow import Ledger
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.redis_store import RedisStores
from serving_gateway.replication.replicas import this_process
from serving_gateway.replication.snapshot import Snapshot, snapshot_names
from serving_gateway.replication.store import FileStores, Stores
from serving_gateway.replication.watcher import Watcher
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.telemetry.sample_files import SampleWriter
from serving_gateway.telemetry.samples import ModelSamples, SampleQueue
from serving_gateway.triton.client_pool import TritonClientPool

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the server runs: an ASGI application, and the connections in front of it."""

    app: RequestObserver
    connections: ConnectionPolicy


def create_app(
    settings: Settings,
    *,
    stores: Stores | None = None,
    registry: Registry | None = None,
    own_signals: bool = False,
) -> Gateway:
    """Build the application; nothing is connected before its lifespan starts.

    Args:
        settings: everything that can be set.
        stores: where routing records are kept; by default what the settings name.
        registry: where versions are recorded; by default what the settings name.
        own_signals: whether the process is the gateway's own, so that SIGTERM is its to handle.
    """
    feast = None if settings.feast_dir is None else FeastStore(settings.feast_dir)
    features = None if feast is None else feature_reader(feast, settings)
    identity = this_process()
    tracing = tracing_from(settings, identity)
    shared = _Shared(
        settings=settings,
        stores=stores or stores_from(settings),
        registry=registry or registry_from(settings),
        tritons=TritonClientPool(
            connections=settings.triton_connections,
            connect_seconds=settings.triton_connect_seconds,
            staleness_seconds=settings.staleness_seconds,
            servers={settings.triton_url: settings.triton_servers_url},
            tracing=tracing,
        ),
        lifecycle=Lifecycle(),
        identity=identity,
        metrics=Metrics(identity.id, features),
        features=features,
        samples=None
        if settings.sample_dir is None
        else SampleQueue(settings.sample_queue_rows, settings.sample_queue_bytes),
        offload=Offload(),
        queue_budget=ByteBudget(settings.max_queued_bytes),
        mirror_budget=ByteBudget(settings.mirror_queue_bytes),
    )
    writer = sample_writer(shared)
    hosting = Hosting(
        settings.model_name,
        lambda name: _plane(name, shared, lambda: hosting.names),
        shared.stores,
        snapshots=lambda: snapshot_names(settings.state_dir),
        interval=settings.watch_seconds,
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
        if shared.features is not None:
            # The import of Feast would take the time of the first requests.
            await shared.features.prepare()
        if writer is not None:
            await asyncio.to_thread(writer.start)
        # What is there by now stays: without this each full collection of garbage would look
        # through it, and requests would wait for that.
        gc.collect()
        gc.freeze()
        await hosting.start()
        if shared.features is not None:
            # The services of the records that were found; they are being looked up already.
            await shared.features.prepare()
        if own_signals:
            begin_lame_duck_on_signal(shared.lifecycle, settings.drain_seconds)
        tasks = [
            asyncio.create_task(hosting.run(), name="hosting"),
            asyncio.create_task(connections.sweep(), name="connections"),
        ]
        if feast is not None:
            tasks.append(asyncio.create_task(feast.run(), name="feature store"))
        try:
            yield
        finally:
            shared.lifecycle.draining = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await hosting.aclose()
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
    """What all planes of a process share."""

    settings: Settings
    stores: Stores
    registry: Registry | None
    tritons: TritonClientPool
    lifecycle: Lifecycle
    identity: ReplicaIdentity
    metrics: Metrics
    features: FeatureReader | None
    samples: SampleQueue | None
    offload: Offload
    queue_budget: ByteBudget
    mirror_budget: ByteBudget

    async def aclose(self) -> None:
        if self.features is not None:
            await self.features.aclose()
        await self.tritons.aclose()
        if self.registry is not None:
            await self.registry.aclose()
        await self.stores.aclose()


def _plane(model_name: str, shared: _Shared, names: Callable[[], tuple[str, ...]]) -> HostedModel:
    """The plane of one model, wired and not started."""
    settings, metrics = shared.settings, shared.metrics.model(model_name)
    router = Router(
        model_name, settings, shared.tritons, shared.lifecycle, metrics, shared.queue_budget
    )
    if shared.features is not None:
        router.on_services = shared.features.expect
    store = shared.stores.of(model_name)
    own = model_name == settings.model_name
    presence = Heartbeat(
        router,
        store,
        shared.identity,
        keep_seconds=settings.replica_seconds,
        everybody=None if own else shared.stores.of(settings.model_name),
    )
    snapshot = Snapshot(settings.state_dir, model_name)
    watcher = Watcher(router, store, snapshot, presence, interval=settings.watch_seconds)
    ledger = Ledger(settings.shadow_examples)
    mirror = Mirror(settings, router, metrics, ledger, shared.mirror_budget)
    dispatcher = Dispatcher(router, watcher.wake, metrics.fallbacks.inc)
    samples = None
    if shared.samples is not None:
        metrics.samples = samples = ModelSamples(shared.samples, settings.sample_fraction)
    metrics.watch(router.routed, ledger.state)
    return HostedModel(
        model_name=model_name,
        forget=lambda: shared.metrics.forget(model_name),
        router=router,
        watcher=watcher,
        presence=presence,
        mirror=mirror,
        predictor=Predictor(
            settings, dispatcher, mirror, metrics, shared.offload, shared.features, samples
        ),
        control_plane=ControlPlane(
            settings, router, store, shared.registry, metrics, shared.features
        ),
        open_inference=OpenInference(settings, dispatcher, shared.offload),
        overview=StatusReporter(settings, router, watcher, presence, ledger, names),
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
        shared.identity.id,
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


def stores_from(settings: Settings) -> Stores:
    """The stores that the settings name; nothing is connected yet."""
    if settings.redis_url is None:
        return FileStores(settings.state_dir)
    return RedisStores(RedisConnection(settings.redis_url, limit_seconds=settings.store_seconds))
