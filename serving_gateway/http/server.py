"""Runs the application under uvicorn, with a graceful shutdown."""

from __future__ import annotations

import asyncio
import signal
from math import ceil
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from serving_gateway.http.connection import GatewayConnection
from serving_gateway.http.connection_policy import ConnectionPolicy
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.settings import Settings


def serve(settings: Settings, app: ASGIApp, connections: ConnectionPolicy) -> None:
    """Run until asked to stop. Raises SystemExit when the server cannot start."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=GatewayConnection.with_policy(connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(settings.shutdown_seconds),
        backlog=4096,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        raise SystemExit(3)


def drain_on_signal(lifecycle: Lifecycle, drain_seconds: float) -> None:
    """Put a pause between SIGTERM and the server's own handling of it.

    For `drain_seconds` the replica reports that it is not ready but still answers: a load balancer
    needs that time to notice, or it would send requests to a closed port. A second signal ends the
    pause. Call this within the running server, whose handler is in place by then.
    """
    server_handler = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()

    def end() -> None:
        if callable(server_handler):
            server_handler(signal.SIGTERM, None)

    def handle(_signal: int, _frame: FrameType | None) -> None:
        is_repeated = lifecycle.draining
        lifecycle.draining = True
        # Python runs this between bytecodes of the main thread, so the loop must be woken.
        loop.call_soon_threadsafe(loop.call_later, 0 if is_repeated else drain_seconds, end)

    signal.signal(signal.SIGTERM, handle)
