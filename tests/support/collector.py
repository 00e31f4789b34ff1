"""A collector of OpenTelemetry traces on loopback: OTLP over HTTP, kept in memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.servers import LOOPBACK

SERVER, CLIENT = 2, 3
"""Kinds of spans, as the protocol numbers them."""


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span that came in; ids are hexadecimal."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    links: tuple[tuple[str, str], ...]
    """Trace and span of each."""
    attributes: dict[str, Any]
    failed: bool


@dataclass(slots=True)
class Collector:
    """What came in so far."""

    url: str
    resources: list[dict[str, Any]] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    exports: list[bytes] = field(default_factory=list)
    """As they came."""

    def of(self, kind: int) -> list[ReceivedSpan]:
        """The spans of a kind."""
        return [span for span in self.spans if span.kind == kind]

    def take(self, body: bytes) -> None:
        """Keep the spans of one export."""
        self.exports.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        name=one.name,
                        kind=one.kind,
                        trace=one.trace_id.hex(),
                        span=one.span_id.hex(),
                        parent=one.parent_span_id.hex(),
                        links=tuple((to.trace_id.hex(), to.span_id.hex()) for to in one.links),
                        attributes=_values(one.attributes),
                        failed=one.status.code == 2,
                    )
                    for one in scope.spans
                ]


def _values(pairs: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in pairs}


@contextlib.contextmanager
def run_collector() -> Iterator[Collector]:
    """Run a collector in a thread."""
    found = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        found.url = f"http://{LOOPBACK}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()
