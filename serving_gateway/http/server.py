"""Runs the application under uvicorn, with an orderly end."""

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
        http=GatewayConnection.under(connections),
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

    For `drain_seconds` the replica says that it is not ready while it still answers: the time
    that a load balancer needs to see it, without which it would send requests to a closed port.
    A second signal ends the pause. To be called within the running server, whose handler is
    then in place.
    """
    servers_own = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()

    def end() -> None:
        if callable(servers_own):
            servers_own(signal.SIGTERM, None)

    def handle(_signal: int, _frame: FrameType | None) -> None:
        again = lifecycle.draining
        lifecycle.draining = True
        # Python runs this between bytecodes of the main thread, so the loop must be woken.
        loop.call_soon_threadsafe(loop.call_later, 0 if again else drain_seconds, end)

    signal.signal(signal.SIGTERM, handle)
