"""What stands around every request: ids, counts, the log, and the end of a process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Final

from starlette.middleware.cors import CORSMiddleware

from serving_gateway.errors import GatewayError, NotFound
from serving_gateway.http.raw import (
    ASGIApp,
    Message,
    Receive,
    RequestIds,
    Scope,
    Send,
    error_body,
    header,
)
from serving_gateway.http.security import check_one_host
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.telemetry.logs import RepeatedWarning
from serving_gateway.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_METHODS: Final = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])


class RequestObserver:
    """Names, counts and logs each request that the application answers.

    It also makes three things true of all routes. They are matched by the raw path, so that no
    escape passes a proxy's rule for a path as another one. HEAD is answered as GET is, by a server
    that drops the body. While the process ends, each response closes its connection.

    Args:
        app: the application.
        lifecycle: whether the process is about to end.
        metrics: counts.
        access_log: whether each request is logged.
    """

    def __init__(
        self, app: ASGIApp, lifecycle: Lifecycle, metrics: Metrics, *, access_log: bool
    ) -> None:
        self.app = app
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._requests = metrics.http_requests
        self._bugs = RepeatedWarning(log, "a request failed on a bug", logging.ERROR)
        self._access_log = access_log
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's lifespan."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = self._ids.of(header(scope["headers"], b"x-request-id"))
        inner = _as_routed(scope, request_id)
        status = 499  # a client that leaves gets no response

        async def observed(message: Message) -> None:
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
            await self._answer(inner, receive, observed)
        except Exception as bug:  # the application has answered it
            self._bugs.log(type(bug).__name__, exception=bug, request_id=request_id.decode())
        finally:
            self._metrics.in_flight -= 1
            self._note(scope["method"], inner, status, perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_one_host(scope["headers"], scope["http_version"])
            if "%2f" in scope["path"].lower():
                raise NotFound("No path of this gateway has an escaped slash.")
        except GatewayError as error:
            body, headers = error_body(error, scope["request_id"], None)
            headers.append((b"content-length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)

    def _note(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        # Neither invented methods nor invented paths may fill the metrics.
        known = method if method in _METHODS else "other"
        template = getattr(scope.get("route"), "path", "other")
        self._requests.labels(known, template, str(status)).inc()
        if self._access_log:
            log.info(
                "request",
                extra={
                    "method": method,
                    "path": scope["path"],
                    "status": status,
                    "request_id": scope["request_id"].decode(),
                    "seconds": round(seconds, 6),
                },
            )


class DataPlaneCors:
    """Allows pages of the configured origins to ask for predictions, and for nothing else.

    Args:
        app: the application.
        origins: the origins; none by default.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self._allowing = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "inference-header-content-length", "retry-after"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        data = scope["type"] == "http" and is_data_path(scope["path"])
        await (self._allowing if data else self.app)(scope, receive, send)


def is_data_path(path: str) -> bool:
    """Whether a path is of the data plane: `/predict` of any model, and `/v2`."""
    return path.endswith("/predict") or path == "/v2" or path.startswith("/v2/")


def _as_routed(scope: Scope, request_id: bytes) -> Scope:
    raw = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    if path.startswith("/v2"):
        path = path.rstrip("/")  # clients of the protocol put one there
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "path": path, "method": method, "request_id": request_id}
