"""The outermost application: predictions go straight to their endpoint, the rest to FastAPI."""

from __future__ import annotations

import asyncio
import logging
import re
from time import perf_counter
from typing import TYPE_CHECKING, Final

from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import ClientGone, GatewayError, MethodNotAllowed
from serving_gateway.http.connection import ConnectionPolicy
from serving_gateway.http.inference_endpoint import AwaitedRequest, InferenceEndpoint, Route
from serving_gateway.http.open_inference_routes import OipEndpoint
from serving_gateway.http.open_inference_routes import template as protocol_template
from serving_gateway.http.raw import (
    ASGIApp,
    Header,
    Message,
    Receive,
    RequestIds,
    Scope,
    Send,
    answer,
    error_body,
    header,
    read_body,
)
from serving_gateway.http.security import DataGuard
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.settings import Settings
from serving_gateway.telemetry.logs import RepeatedWarning
from serving_gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

_MODEL_PATH: Final = re.compile(r"/models/(?P<model>[^/]*)(?P<rest>/.*)?")
_PREDICT_PATH: Final = re.compile(r"/models/(?P<model>[^/]+)/predict")
_HEALTH_PATH: Final = re.compile(r"/v2/(health/(live|ready)|models/.*/ready)/?")
_VARIANT_PATH: Final = re.compile(r"/variant/[^/]*/(reload|rollback)")
_MODEL_PATHS: Final = frozenset(["/health", "/ready", "/shadow", "/traffic", "/predict"])
_PATHS: Final = _MODEL_PATHS | {"/", "/models", "/metrics", "/docs", "/openapi.json"}
_NAMED_PREDICT: Final = "/models/{model}/predict"


class Gateway:
    """The ASGI application.

    Args:
        settings: limits.
        hosting: finds the model of a request.
        lifecycle: whether the process is about to end.
        control: answers all that is no prediction.
        metrics: counts.
        tracing: makes spans of predictions; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        hosting: Hosting,
        lifecycle: Lifecycle,
        control: ASGIApp,
        metrics: Metrics,
        endpoint: InferenceEndpoint,
        connections: ConnectionPolicy,
        tracing: Tracing | None = None,
    ) -> None:
        self._endpoint = endpoint
        self.connections = connections
        self._tracing = tracing
        self._hosting = hosting
        self._lifecycle = lifecycle
        self._protocol = OipEndpoint(hosting, settings.max_body_bytes)
        self._control = control
        self._guard = DataGuard(settings.api_keys)
        self._metrics = metrics
        self._unanswered = RepeatedWarning(log, "a request was not answered")
        self._bugs = RepeatedWarning(log, "a request failed on a bug", logging.ERROR)
        self._requests = metrics.http_requests
        self._predicted = metrics.http_requests.labels("POST", "/predict", "200")
        self._predicted_named = metrics.http_requests.labels("POST", _NAMED_PREDICT, "200")
        self._max_body = settings.max_body_bytes
        self._access_log = settings.access_log
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's lifespan."""
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        self._metrics.in_flight += 1
        path: str = scope["path"]
        try:
            route = self._endpoint.routes.parse(scope["raw_path"])
            if route is not None:
                await self._answer_inference(route, scope, receive, send)
            elif path == "/v2" or path.startswith("/v2/"):
                await self._answer_protocol(scope, send)
            else:
                await self._answer_other(scope, receive, send)
        finally:
            self._metrics.in_flight -= 1

    async def _answer_inference(
        self, route: Route, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request for inference that the connection did not answer itself."""
        request_id = self._ids.of(header(scope["headers"], b"x-request-id"))
        request: AwaitedRequest | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST.", allow="POST")
            body = await read_body(receive, scope["headers"], self._max_body)
            request = AwaitedRequest(self._endpoint, route, scope["headers"], body, request_id)
            self._endpoint.start(request)
            status, headers, content = await request.response()
        except ClientGone:
            return
        except GatewayError as error:
            status = error.status
            content, headers = self._refused(scope, error, request_id)
            headers.append((b"x-request-id", request_id))
        except asyncio.CancelledError:
            if request is not None:
                self._endpoint.abandon(request)
            raise
        await answer(send, status, content, headers)

    async def _answer_protocol(self, scope: Scope, send: Send) -> None:
        request_id = self._ids.of(header(scope["headers"], b"x-request-id"))
        started = perf_counter()
        status = 500
        try:
            # A prober has no key: the health of the server and of a model is told to anybody.
            if not _HEALTH_PATH.fullmatch(scope["path"]):
                self._guard.check(scope["headers"])
            status, body, headers = await self._protocol(scope)
            self._requests.labels(_method(scope), _template(scope["path"]), str(status)).inc()
        except ClientGone:
            status = 499
            return
        except GatewayError as error:
            status = error.status
            body, headers = self._refused(scope, error, request_id)
        except Exception as error:
            status = 500
            body, headers = self._failed(scope, error, request_id)
        await self._send(send, status, body, headers, request_id)
        if self._access_log:
            self._log(scope, status, request_id, started)

    async def _send(
        self, send: Send, status: int, body: bytes, headers: list[Header], request_id: bytes
    ) -> None:
        headers.append((b"x-request-id", request_id))
        if self._lifecycle.draining:
            headers.append((b"connection", b"close"))
        await answer(send, status, body, headers)

    def _failed(
        self, scope: Scope, bug: Exception, request_id: bytes, model_name: str | None = None
    ) -> tuple[bytes, list[Header]]:
        self._bugs.log(type(bug).__name__, exception=bug, request_id=request_id.decode())
        return self._refused(scope, GatewayError(_BUG), request_id, model_name)

    def _refused(
        self, scope: Scope, error: GatewayError, request_id: bytes, model_name: str | None = None
    ) -> tuple[bytes, list[Header]]:
        path = _template(scope["path"])
        self._requests.labels(_method(scope), path, str(error.status)).inc()
        # A caller's mistake tells nothing about the state; what cannot be done now does.
        still = self._hosting.still_served(model_name) if error.status >= 500 else None
        body, headers = error_body(error, request_id, still)
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allow.encode()))
        if error.status == 413:
            # What the client still sends of the body is not worth reading.
            headers.append((b"connection", b"close"))
        if error.status >= 500:
            self._unanswered.log(error.code, request_id=request_id.decode(), reason=error.message)
        return body, headers

    async def _answer_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = self._ids.of(header(scope["headers"], b"x-request-id"))
        scope["request_id"] = request_id
        started = perf_counter()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if self._lifecycle.draining:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        try:
            await self._control(scope, receive, counted)
        except ClientGone:
            status = 499
            return
        finally:
            self._requests.labels(_method(scope), _template(scope["path"]), str(status)).inc()
        if self._access_log:
            self._log(scope, status, request_id, started)

    def _log(self, scope: Scope, status: int, request_id: bytes, started: float) -> None:
        log.info(
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "request_id": request_id.decode(),
                "seconds": round(perf_counter() - started, 6),
            },
        )


_BUG: Final = "The gateway failed on a bug of its own; its log says more under this request id."
_METHODS: Final = frozenset(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])


def _method(scope: Scope) -> str:
    """The method, such that nobody can fill the metrics with invented ones."""
    method: str = scope["method"]
    return method if method in _METHODS else "other"


def _template(path: str) -> str:
    """The route of a path, such that nobody can fill the metrics with invented ones."""
    if path in _PATHS:
        return path
    if path == "/v2" or path.startswith("/v2/"):
        return protocol_template(path)
    named = _MODEL_PATH.fullmatch(path)
    prefix, rest = ("", path) if named is None else ("/models/{model}", named["rest"] or "")
    variant = _VARIANT_PATH.fullmatch(rest)
    if variant is not None:
        return f"{prefix}/variant/{{alias}}/{variant[1]}"
    return f"{prefix}{rest}" if named is not None and rest in {"", *_MODEL_PATHS} else "other"
