"""The one place that wires the gateway together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from fastapi import FastAPI

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import RoutingRecord
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.hosting import HostedModel, Hosting
from serving_gateway.control.record_writer import RecordWriter
from serving_gateway.control.registry import Registry
from serving_gateway.control.release_control import ReleaseControl
from serving_gateway.control.release_report import ReleaseReporter
from serving_gateway.control.release_watch import ReleaseWatch, watch_releases
from serving_gateway.control.status import StatusReporter
from serving_gateway.control.verification import VersionVerifier
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.reader import FeatureReader
from serving_gateway.http.app import build
from serving_gateway.http.connection_policy import ConnectionPolicy
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.http.middleware import RequestObserver
from serving_gateway.http.outcome_routes import OutcomeReceiver
from serving_gateway.http.security import Access, ensure_token
from serving_gateway.http.server import drain_on_signal
from serving_gateway.inference.dispatcher import Dispatcher
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.offload import Offload
from serving_gateway.inference.open_inference import OpenInference
from serving_gateway.inference.prediction import Predictor
from serving_gateway.inference.prober import Prober
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router, RoutingTarget
from serving_gateway.inference.shadow import ShadowStatistics
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.pending_stops import PendingStops
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.redis_store import RedisStore
from serving_gateway.replication.release_counts import (
    FileReleaseCounts,
    RedisReleaseCounts,
    ReleaseCountStore,
)
from serving_gateway.replication.replicas import this_process
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.replication.store import RoutingStore
from serving_gateway.replication.watcher import Watcher
from serving_gateway.settings import Settings
from serving_gateway.tasks import TaskSupervisor
from serving_gateway.telemetry.log_key import log_key
from serving_gateway.telemetry.log_writer import LogWriter
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.telemetry.outcome_writer import OutcomeWriter
from serving_gateway.telemetry.prediction_ids import PredictionIds
from serving_gateway.telemetry.prediction_log import LogQueue, ModelLog
from serving_gateway.triton.cluster import TritonClusters

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

_START_SECONDS: Final = 5.0
"""Longest that startup waits for the store, Triton and the feature store; the rest goes on in the
background, and /ready says what is missing (I9)."""


class Gateway(NamedTuple):
    """What the server runs: an ASGI application, and the connections in front of it."""

    app: RequestObserver
    connections: ConnectionPolicy


def create_app(settings: Settings, *, own_signals: bool = False) -> Gateway:
    """Build the application, not yet connected; with `own_signals` it handles SIGTERM."""
    replica = _Replica(settings)
    metrics, lifecycle, hosting = replica.metrics, replica.lifecycle, replica.hosting
    access = Access(settings)
    endpoint = InferenceEndpoint(
        settings, hosting, lifecycle, access, metrics, replica.offload, replica.tracing
    )
    connections = ConnectionPolicy(endpoint, settings)
    receiver = OutcomeReceiver(replica.outcomes, settings)
    app = build(settings, hosting, metrics, access, endpoint, receiver)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ensure_token(settings, access)
        await replica.start()
        replica.supervisor.start("connections", connections.sweep)
        if own_signals:
            drain_on_signal(lifecycle, settings.drain_seconds)
        try:
            yield
        finally:
            await replica.aclose()

    app.router.lifespan_context = lifespan
    observer = RequestObserver(app, lifecycle, metrics, access_log=settings.access_log)
    return Gateway(observer, connections)


def _make_features(settings: Settings) -> FeatureReader | None:
    if settings.feast_dir is None:
        return None
    return FeatureReader(FeastStore(settings.feast_dir), limit_seconds=settings.feature_seconds)


def _make_tracing(settings: Settings, process_id: str) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    from serving_gateway.telemetry.tracing import Tracing  # OpenTelemetry only where it is used

    return Tracing(settings.otlp_endpoint, settings.trace_fraction, process_id)


def _make_registry(settings: Settings) -> Registry | None:
    if settings.mlflow_url is None:
        return None
    return Registry(
        settings.mlflow_url,
        token=settings.mlflow_token,
        username=settings.mlflow_username,
        password=settings.mlflow_password,
        limit_seconds=settings.mlflow_seconds,
    )


def _make_stores(settings: Settings) -> tuple[RoutingStore, ReleaseCountStore]:
    if settings.redis_url is None:
        return FileStore(settings.state_dir), FileReleaseCounts(settings.state_dir)
    redis = RedisConnection(
        settings.redis_url,
        limit_seconds=settings.store_seconds,
        pause_seconds=min(1.0, settings.watch_seconds),
    )
    return RedisStore(redis), RedisReleaseCounts(redis)


class _Replica:
    """What all models of a process share, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        identity = this_process()
        self.settings = settings
        self.features = _make_features(settings)
        self.tracing = _make_tracing(settings, identity.id)
        self.metrics = Metrics(identity.id, self.features)
        self.supervisor = TaskSupervisor(self._count_restart)
        self.lifecycle = Lifecycle()
        self.registry = _make_registry(settings)
        self.store, self.release_counts = _make_stores(settings)
        self.release_failed = asyncio.Event()
        self.losses = LossReporter(self.metrics.record_losses)
        interval, snapshots = settings.watch_seconds, Snapshots(settings.state_dir)
        self.watcher = Watcher(self.store, snapshots, self.losses, interval=interval)
        self.prober = Prober(interval=interval)
        self.heartbeat = Heartbeat(
            self.store, identity, keep_seconds=settings.replica_seconds, interval=interval
        )
        self.tritons = TritonClusters(settings, self.tracing)
        self.prediction_ids = PredictionIds()
        self.log_queue = LogQueue(settings.sample_queue_rows, settings.sample_queue_bytes)
        self.writer: LogWriter | None = None
        self.outcomes: OutcomeWriter | None = None
        if (folder := settings.sample_dir) is not None:
            key = log_key(settings)
            self.writer = LogWriter(self.log_queue, folder, identity.id, settings, key)
            self.outcomes = OutcomeWriter(folder, identity.id, settings)
        self.queue_budget = ByteBudget(settings.max_queued_bytes)
        self.mirror_budget = ByteBudget(settings.mirror_queue_bytes)
        self.offload = Offload(self.queue_budget)
        self.hosting = Hosting(
            settings.model_name,
            self._build_model,
            self.store,
            self.lifecycle,
            pending=lambda: self.watcher.pending,
            forget=self.metrics.forget,
            limit=settings.max_models,
        )

    async def start(self) -> None:
        """Start what runs in the background, and wait a little for what requests need."""
        start, watcher, hosting = self.supervisor.start, self.watcher, self.hosting
        self.log_queue.call_in_loop = asyncio.get_running_loop().call_soon_threadsafe
        for writer in (self.writer, self.outcomes):
            if writer is not None:
                await asyncio.to_thread(writer.start)
        start("prober", lambda: self.prober.run(hosting.versions))
        start("watcher", lambda: watcher.run(hosting))
        start("subscription", watcher.listen)
        start("snapshots", watcher.keep_snapshots)
        watches = lambda: (model.release_watch for model in hosting.models)  # noqa: E731
        on_bug = partial(self._count_restart, "releases")
        start("releases", lambda: watch_releases(watches, self.release_failed, on_bug))
        start("heartbeat", lambda: self.heartbeat.run(hosting.reports))
        opening = [start("first pass", watcher.first_pass, may_end=True)]
        if self.features is not None:
            # Otherwise importing Feast would delay the first requests.
            opening.append(start("features", self.features.prepare, may_end=True))
        await asyncio.wait(opening, timeout=_START_SECONDS)
        # What exists by now stays: without this, each full garbage collection would traverse it
        # while requests wait.
        gc.collect()
        gc.freeze()

    async def aclose(self) -> None:
        """End everything: answer nothing new, leave the cluster, write what is pending."""
        self.lifecycle.draining = True
        await self.supervisor.aclose()
        # Before the mirrors end: copies dropped after that are not failures of B.
        await asyncio.gather(*(model.release_watch.store_counts() for model in self.hosting.models))
        self.hosting.close()
        self.offload.close()
        await self.heartbeat.leave()
        for resource in (self.features, self.tritons, self.registry, self.store):
            if resource is not None:
                await resource.aclose()
        for writer in (self.writer, self.outcomes, self.tracing):
            if writer is not None:
                await asyncio.to_thread(writer.close)

    def _count_restart(self, task: str) -> None:
        self.metrics.task_restarts.labels(task).inc()

    def _build_model(self, model_name: str) -> HostedModel:
        """Wire up everything that one model needs; nothing runs yet."""
        settings, metrics = self.settings, self.metrics.model(model_name)
        watcher, features, heartbeat = self.watcher, self.features, self.heartbeat
        problem = partial(watcher.problem, model_name)

        def on_adopt(record: RoutingRecord) -> None:
            watcher.keep(record)
            heartbeat.wake()
            self.prober.wake(target.client for target in targets() if not target.client.ready)

        def targets() -> Iterable[RoutingTarget]:
            return router.table.targets.values()

        def probe() -> None:
            self.prober.wake(target.client for target in targets())

        def wake() -> None:
            probe()
            watcher.wake(model_name)

        router = Router(
            model_name,
            settings,
            self.tritons,
            self.lifecycle,
            metrics,
            self.queue_budget,
            record_problem=lambda: watcher.pending or problem(),
            on_adopt=on_adopt,
            on_services=lambda names: features and features.expect(names),
            on_release_failure=self.release_failed.set,
        )
        ledger = ShadowStatistics(settings.shadow_examples, settings.request_seconds)
        metrics.routed_state, metrics.shadow = router.routed_state, ledger.state
        if self.writer is not None:
            prefix = self.prediction_ids.prefix
            metrics.log = ModelLog(self.log_queue, settings.sample_fraction, prefix)
        mirror = Mirror(settings, router, metrics, ledger, self.mirror_budget, self.offload)
        dispatcher = Dispatcher(
            router,
            wake=wake,
            probe=probe,
            count_fallback=metrics.fallbacks.inc,
            offload=self.offload,
            ids=self.prediction_ids,
            log=metrics.log,
        )
        predictor = Predictor(settings, dispatcher, mirror, metrics, features)
        writer = RecordWriter(router, self.store, self.losses)
        verifier = VersionVerifier(settings, router, self.registry, features)
        control = ControlPlane(router, verifier, writer, heartbeat, metrics)
        status = StatusReporter(
            settings,
            router,
            heartbeat,
            ledger,
            names=lambda: self.hosting.names,
            store_problem=problem,
        )
        release = ReleaseControl(control, PendingStops(settings.state_dir))
        watch = ReleaseWatch(router, release, self.release_counts, heartbeat.identity.id)
        return HostedModel(
            model_name,
            router,
            mirror,
            predictor,
            control_plane=control,
            open_inference=OpenInference(settings, dispatcher),
            status=status,
            release=release,
            release_watch=watch,
            release_report=ReleaseReporter(router, watch),
        )
