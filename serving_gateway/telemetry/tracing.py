"""Traces of requests and of the inferences that answer them, for an OpenTelemetry collector.

Imported only where GATEWAY_OTLP_ENDPOINT is set. Spans hold routes, names and numbers, nothing
that a client sent. They wait in a bounded queue for a thread of their own; while the collector is
down they are dropped, and requests go on.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from random import random
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from serving_gateway.errors import GatewayError

_EXPORT_SECONDS: Final = 5.0
"""Limit for one export, its repetitions included."""
_CLOSE_SECONDS: Final = 2.0
"""How long the end of the process waits for the last spans."""


class _Span:
    """A span, and the W3C trace context of what happens within it."""

    __slots__ = ("span", "traceparent")

    def __init__(self, span: Span) -> None:
        context = span.get_span_context()
        ids = f"{context.trace_id:032x}-{context.span_id:016x}"
        self.span = span
        self.traceparent = f"00-{ids}-{context.trace_flags:02x}".encode()

    def _end(self, error_type: str | None) -> None:
        if error_type is not None:
            self.span.set_status(StatusCode.ERROR)
            self.span.set_attribute("error.type", error_type)
        self.span.end()


class RequestSpan(_Span):
    """The server's side of one request."""

    __slots__ = ()

    def record_version(self, model_name: str, variant: str, version: int) -> None:
        """Record which version answered."""
        self.span.set_attributes(
            {"serving.model": model_name, "serving.variant": variant, "serving.version": version}
        )

    def end(self, status: int) -> None:
        """End the span with the status of the answer."""
        self.span.set_attribute("http.response.status_code", status)
        self._end(str(status) if status >= 500 else None)


class InferenceSpan(_Span):
    """The client's side of one inference by Triton."""

    __slots__ = ()

    def end(self, error: GatewayError | None) -> None:
        """End the span; the error's code is kept, its message may quote a client."""
        self._end(None if error is None else error.code)


class Tracing:
    """Makes spans and sends them to `endpoint`, the base address of a collector.

    `fraction` is the share of requests without a trace context that are traced; a request with one
    is traced if its context says so.
    """

    def __init__(self, endpoint: str, fraction: float, replica: str) -> None:
        self._fraction = fraction
        identity = {"service.name": "serving-gateway", "service.instance.id": replica}
        self._provider = TracerProvider(
            resource=Resource.create(identity),
            sampler=ALWAYS_ON,  # `wants` has decided before
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("serving_gateway")

    def should_trace(self, traceparent: bytes | None) -> bool:
        """Whether a request is traced; others cost no more than this call."""
        if traceparent is None:
            return random() < self._fraction  # noqa: S311 -- nothing secret
        return bool(int(traceparent[-2:], 16) & TraceFlags.SAMPLED)

    def request(self, method: str, route: str, traceparent: bytes | None) -> RequestSpan:
        """Begin the span of a request, as part of the W3C trace context that came with it."""
        parent = None
        if traceparent is not None:
            _, trace, caller, _ = (int(part, 16) for part in traceparent.split(b"-"))
            context = SpanContext(trace, caller, True, TraceFlags(TraceFlags.SAMPLED))
            parent = set_span_in_context(NonRecordingSpan(context))
        attributes = {"http.request.method": method, "http.route": route}
        span = self._tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes)
        return RequestSpan(span)

    def inference(
        self, model_name: str, version: int, rows: int, requests: Sequence[RequestSpan]
    ) -> InferenceSpan | None:
        """Begin the span of an inference; None when no request that shares it is traced.

        A span has one parent, and an inference belongs to several requests: so it is linked to
        all of them, and they to it. It belongs to the trace of the first, which Triton continues.
        """
        if not requests:
            return None
        traced = [request.span for request in requests]
        attributes: dict[str, str | int] = {
            "serving.model": model_name,
            "serving.version": version,
            "serving.requests": len(traced),
            "serving.rows": rows,
        }
        span = self._tracer.start_span(
            "triton infer",
            set_span_in_context(traced[0]),
            SpanKind.CLIENT,
            attributes,
            [Link(span.get_span_context()) for span in traced],
        )
        for other in traced[1:]:
            other.add_link(span.get_span_context())
        return InferenceSpan(span)

    def close(self) -> None:
        """Send the waiting spans, within two seconds."""
        # The library would wait half a minute for a collector that does not answer.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)
