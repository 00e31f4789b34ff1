"""Requests for inference over HTTP, in callbacks: `POST /predict` and `POST /v2/.../infer`.

Nothing in here waits. The connection hands over a request whose body is complete; the response
is written when the batch that carries its rows returns.
"""

from __future__ import annotations

import logging
import re
from time import perf_counter
from typing import TYPE_CHECKING, Final

from serving_gateway.batching import BatchItem
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import GatewayError, MalformedRequest, NotFound
from serving_gateway.http.raw import RequestIds, check_json, error_body, trace_context
from serving_gateway.http.security import DataGuard
from serving_gateway.inference.protocol_response import ProtocolResponse
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import RequestSpan, Tracing

log = logging.getLogger(__name__)

_PREDICT: Final = re.compile(rb"/models/(?P<model>[A-Za-z0-9_-]+)/predict")
_INFER: Final = re.compile(
    rb"/v2/models/(?P<model>[A-Za-z0-9_.-]+)(?:/versions/(?P<version>[0-9]{1,18}))?/infer/?"
)
_ELSEWHERE: Final = frozenset([b"content-encoding", b"expect", b"origin"])
"""Headers that need what the application does: decompression, continuation, CORS."""
_ROUTES_KEPT: Final = 4096
_BUG: Final = "The gateway failed on a bug of its own; its log says more under this request id."


class Route:
    """What a path asks for."""

    __slots__ = ("is_protocol", "model_name", "template", "version")

    def __init__(
        self, template: str, model_name: str | None, version: int | None, *, is_protocol: bool
    ) -> None:
        self.template = template
        self.model_name = model_name
        self.version = version
        self.is_protocol = is_protocol


class Routes:
    """Finds the route of a target; each is parsed once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Route] = {
            b"/predict": Route("/predict", None, None, is_protocol=False)
        }

    def find(self, method: bytes, target: bytes, fields: dict[bytes, bytes]) -> Route | None:
        """The route of a request that is answered in callbacks; None for all others.

        Args:
            method: of HTTP.
            target: as it came, never decoded.
            fields: headers by lower-case name.
        """
        route = self._known.get(target)
        if route is None:
            route = self._parse(target)
        if route is None or method != b"POST" or not _ELSEWHERE.isdisjoint(fields):
            return None
        return route

    def _parse(self, target: bytes) -> Route | None:
        route: Route | None = None
        if predict := _PREDICT.fullmatch(target):
            model = predict["model"].decode()
            route = Route("/models/{model_name}/predict", model, None, is_protocol=False)
        elif infer := _INFER.fullmatch(target):
            version = None if infer["version"] is None else int(infer["version"])
            template = "/v2/models/{model_name}/infer"
            route = Route(template, infer["model"].decode(), version, is_protocol=True)
        if route is not None:
            if len(self._known) > _ROUTES_KEPT:
                self._known = {b"/predict": self._known[b"/predict"]}
            self._known[target] = route
        return route


class InferenceRequest:
    """One request for inference: what came, and how its response is written."""

    __slots__ = ("body", "call", "fields", "headers", "request_id", "route", "span", "started")

    def __init__(
        self, route: Route, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]
    ) -> None:
        self.route = route
        self.headers = headers
        self.fields = fields
        self.body: bytes | bytearray = b""
        self.request_id = b""
        self.call: BatchItem | None = None
        """What is under way for it."""
        self.span: RequestSpan | None = None
        self.started = 0.0

    def write(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole response.

        Args:
            status: of HTTP.
            headers: lines that end with CRLF.
            body: the whole body.
        """
        raise NotImplementedError


class _Responder:
    """Writes the response of one request when it is there."""

    __slots__ = ("_endpoint", "_request")

    def __init__(self, endpoint: InferenceEndpoint, request: InferenceRequest) -> None:
        self._endpoint = endpoint
        self._request = request

    def succeed(self, body: bytes) -> None:
        request = self._request
        self._endpoint.finish(
            request,
            200,
            b"content-type: application/json\r\nx-request-id: %b\r\n" % request.request_id,
            body,
        )

    def respond(self, response: ProtocolResponse, variant: str, version: int) -> None:
        request, size = self._request, response.header_length
        if size is None:
            kind = b"content-type: application/json\r\n"
        else:
            kind = (
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % size
            )
        headers = (
            b"%bx-serving-variant: %b\r\nx-serving-version: %d\r\nx-request-id: %b\r\n"
            % (kind, variant.encode(), version, request.request_id)
        )
        self._endpoint.finish(request, 200, headers, response.body)

    def fail(self, error: GatewayError) -> None:
        self._endpoint.fail(self._request, error)


class InferenceEndpoint:
    """Answers requests for inference.

    Args:
        settings: limits.
        hosting: finds the model of a request.
        lifecycle: whether the process is about to end.
        metrics: counts.
        tracing: makes spans; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        hosting: Hosting,
        lifecycle: Lifecycle,
        guard: DataGuard,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self.routes = Routes()
        self.in_flight = 0
        self._hosting = hosting
        self._lifecycle = lifecycle
        self._guard = guard
        self._requests = metrics.http_requests
        self._tracing = tracing
        self._access_log = settings.access_log
        self._ids = RequestIds()

    def start(self, request: InferenceRequest) -> None:
        """Answer a request whose body is complete."""
        self.in_flight += 1
        fields = request.fields
        request.request_id = self._ids.of(fields.get(b"x-request-id"))
        if self._access_log:
            request.started = perf_counter()
        traceparent = fields.get(b"traceparent")
        if traceparent is not None:
            traceparent = trace_context(traceparent)
        if self._tracing is not None and self._tracing.wants(traceparent):
            span = self._tracing.request("POST", request.route.template, traceparent)
            request.span, traceparent = span, span.traceparent
        try:
            self._submit(request, traceparent)
        except GatewayError as error:
            self.fail(request, error)
        except Exception:
            log.exception(
                "a request failed on a bug", extra={"request_id": request.request_id.decode()}
            )
            self.fail(request, GatewayError(_BUG))

    def abandon(self, request: InferenceRequest) -> None:
        """Forget a request whose client has left."""
        if request.call is not None:
            if not request.call.is_finished:
                request.call.abandon()
            self.in_flight -= 1
            if request.span is not None:
                request.span.end(499)

    def finish(self, request: InferenceRequest, status: int, headers: bytes, body: bytes) -> None:
        """Write a response, and count it."""
        self.in_flight -= 1
        self._requests.labels("POST", request.route.template, str(status)).inc()
        if request.span is not None:
            request.span.end(status)
        if self._lifecycle.draining:
            headers += b"connection: close\r\n"
        request.write(status, headers, body)
        if self._access_log:
            self._log(request, status)

    def fail(self, request: InferenceRequest, error: GatewayError) -> None:
        """Write an error."""
        # A caller's mistake says nothing about the state; what cannot be done now does.
        still = None
        if error.status >= 500:
            still = self._hosting.still_served(request.route.model_name)
            log.warning(
                "a request was not answered",
                extra={
                    "request_id": request.request_id.decode(),
                    "code": error.code,
                    "reason": error.message,
                },
            )
        body, headers = error_body(error, request.request_id, still)
        lines = b"".join([b"%b: %b\r\n" % one for one in headers])
        lines += b"x-request-id: %b\r\n" % request.request_id
        self.finish(request, error.status, lines, body)

    def describe_refusal(self, error: GatewayError) -> tuple[bytes, bytes]:
        """Header lines and body for a request that is refused before it is complete."""
        self._requests.labels("other", "other", str(error.status)).inc()
        body, headers = error_body(error, None, None)
        return b"".join([b"%b: %b\r\n" % one for one in headers]), body

    def _submit(self, request: InferenceRequest, traceparent: bytes | None) -> None:
        route, fields, hosting = request.route, request.fields, self._hosting
        if not self._guard.is_open:
            self._guard.check(request.headers)
        body = bytes(request.body)
        responder = _Responder(self, request)
        name = route.model_name
        if not route.is_protocol:
            check_json(fields.get(b"content-type"))
            hosted = hosting.default if name is None else hosting.plane(name)
            request.call = hosted.predictor.submit(body, responder, traceparent, request.span)
            return
        announced = fields.get(b"inference-header-content-length")
        if announced is not None and (not announced.isdigit() or len(announced) > 18):
            raise MalformedRequest("Inference-Header-Content-Length is not a number.")
        client = fields.get(b"x-client-id")
        if name is None:
            raise NotFound("The path names no model.")
        request.call = hosting.answering(name).open_inference.submit(
            name,
            route.version,
            None if client is None else client.decode("latin-1"),
            body,
            None if announced is None else int(announced),
            responder,
            traceparent,
            request.span,
        )

    def _log(self, request: InferenceRequest, status: int) -> None:
        log.info(
            "request",
            extra={
                "method": "POST",
                "path": request.route.template,
                "status": status,
                "request_id": request.request_id.decode(),
                "seconds": round(perf_counter() - request.started, 6),
            },
        )
