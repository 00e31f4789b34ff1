"""The one place that wires the gateway together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from serving_gateway import logs
from serving_gateway.api.asgi import Gateway
from serving_gateway.api.control import build
from serving_gateway.api.oip import OipEndpoint
from serving_gateway.api.predict import PredictEndpoint
from serving_gateway.control_plane import ControlPlane
from serving_gateway.data_plane import DataPlane
from serving_gateway.metrics import Metrics, ReplicaState
from serving_gateway.mirror import Mirror
from serving_gateway.open_inference import OpenInference
from serving_gateway.overview import Overview
from serving_gateway.redis_store import RedisStore
from serving_gateway.registry import Registry, registry_from
from serving_gateway.replicas import Presence
from serving_gateway.server import begin_lame_duck_on_signal
from serving_gateway.serving import Serving
from serving_gateway.settings import Settings
from serving_gateway.shadow import Ledger
from serving_gateway.snapshot import Snapshot
from serving_gateway.store import FileStore, RoutingStore
from serving_gateway.watcher import Watcher


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
        store: where the routing record is kept; by default what the settings name.
        registry: where versions are recorded; by default what the settings name.
        own_signals: whether the process is the gateway's own, so that SIGTERM is its to handle.
    """
    metrics = Metrics()
    serving = Serving(settings, metrics)
    kept = store or store_from(settings)
    known = registry or registry_from(settings)
    snapshot = Snapshot(settings.state_dir, settings.model_name)
    presence = Presence(serving, kept, keep_seconds=settings.replica_seconds)
    watcher = Watcher(serving, kept, snapshot, presence, interval=settings.watch_seconds)
    ledger = Ledger(settings.shadow_examples)
    mirror = Mirror(
        metrics, ledger, queue=settings.mirror_queue, in_flight=settings.mirror_in_flight
    )
    data_plane = DataPlane(settings, serving, mirror, watcher.kick, metrics)
    control_plane = ControlPlane(settings, serving, kept, known, metrics)
    overview = Overview(settings, serving, watcher, presence, ledger)
    control = build(settings, serving, control_plane, overview, metrics)
    protocol = OpenInference(settings, serving, watcher.kick, metrics)
    gateway = Gateway(
        settings,
        serving,
        PredictEndpoint(serving, data_plane),
        OipEndpoint(serving, protocol, settings.max_body_bytes),
        control,
        metrics,
    )

    def state() -> ReplicaState:
        return ReplicaState(
            ready=serving.readiness().ready,
            generation=serving.table.record.generation,
            in_flight=gateway.in_flight,
        )

    metrics.watch(state, ledger)
    metrics.info.info({"replica": presence.own().id})

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # One look before the first request: a gateway whose Triton is up starts ready.
        await watcher.start()
        if own_signals:
            begin_lame_duck_on_signal(serving, settings.drain_seconds)
        tasks = [
            asyncio.create_task(watcher.run(), name="watcher"),
            asyncio.create_task(mirror.run(), name="mirror"),
        ]
        try:
            yield
        finally:
            serving.draining = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await presence.leave()
            await serving.aclose()
            if known is not None:
                await known.aclose()
            await kept.aclose()

    control.router.lifespan_context = lifespan
    return gateway


def store_from(settings: Settings) -> RoutingStore:
    """The store that the settings name; nothing is connected yet."""
    if settings.redis_url is None:
        return FileStore(settings.state_dir, settings.model_name)
    return RedisStore(settings.redis_url, settings.model_name, limit_seconds=settings.store_seconds)


def app_from_environment() -> Gateway:
    """The application for `uvicorn --factory serving_gateway.main:app_from_environment`."""
    settings = Settings()
    logs.configure(settings.log_level)
    return create_app(settings, own_signals=True)
