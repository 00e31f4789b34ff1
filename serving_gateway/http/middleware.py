"""What surrounds every request: ids, counts, the log, and the end of a process."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any, Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving_gateway.contract import PLATFORM_HEADER
from serving_gateway.http.raw import RequestIds, header, log_request
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.telemetry.logs import RepeatedWarning
from serving_gateway.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_PLATFORM: Final = PLATFORM_HEADER.encode()
_METHODS: Final = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])


class RequestObserver:
    """Names, counts and logs each request that the application answers.

    It also ensures three things for all routes. They are matched by the raw path, so that no escape
    sequence gets a path past a proxy's rule for it. HEAD is answered like GET, by a server that
    drops the body. While the process ends, each response closes its connection.
    """

    def __init__(
        self, app: ASGIApp, lifecycle: Lifecycle, metrics: Metrics, *, access_log: bool
    ) -> None:
        self.app = app
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._bugs = RepeatedWarning(log, "a request failed because of a bug", logging.ERROR)
        self._access_log = access_log
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's lifespan."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = self._ids.assign(header(scope["headers"], b"x-request-id"))
        inner = _as_routed(scope, request_id)
        status = 499  # a client that leaves gets no response

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if self._lifecycle.draining:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        started = perf_counter()
        self._metrics.in_flight += 1
        try:
            await self.app(inner, receive, observe)
        except Exception as bug:  # the application has answered it
            self._bugs.log(type(bug).__name__, exception=bug, request_id=request_id.decode())
        finally:
            self._metrics.in_flight -= 1
            # Made-up methods and paths must not fill the metrics.
            method = scope["method"] if scope["method"] in _METHODS else "other"
            template = getattr(inner.get("route"), "path", "other")
            if not (status == 200 and header(scope["headers"], _PLATFORM)):
                self._metrics.http_requests.labels(method, template, str(status)).inc()
            if self._access_log:
                seconds = perf_counter() - started
                log_request(scope["method"], inner["path"], status, request_id, seconds)


class DataPlaneCors(CORSMiddleware):
    """Allows pages of the configured origins to ask for predictions, and for nothing else."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "inference-header-content-length", "retry-after"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if path.endswith("/predict") or path == "/v2" or path.startswith("/v2/"):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _as_routed(scope: Scope, request_id: bytes) -> dict[str, Any]:
    raw = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    if path.startswith("/v2"):
        path = path.rstrip("/")  # clients of the protocol append one
    if "%2f" in path.lower():
        path = f"/{path}"  # no route: no path of this gateway has an escaped slash
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "path": path, "method": method, "request_id": request_id}
