"""Traces from the caller through the gateway to Triton, and that they cost no request anything."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.collector import CLIENT, SERVER, Collector, ReceivedSpan, run_collector
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.load import Answer, Load
from tests.support.recorder import Recorder, run_recorder
from tests.support.servers import LOOPBACK, RunningTriton, wait_until

ATTRIBUTES = {
    *("http.request.method", "http.route", "http.response.status_code", "error.type"),
    *("serving.model", "serving.variant", "serving.version", "serving.requests", "serving.rows"),
}
SECRET = "client-4711"
TENSOR = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": ROW}
INFER = f"/v2/models/{DEFAULT_MODEL}/infer"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with run_collector() as running:
        yield running


@pytest.fixture(scope="module")
def recorder(shared_triton: RunningTriton) -> Iterator[Recorder]:
    with run_recorder(shared_triton) as running:
        yield running


@pytest.fixture(scope="module")
def triton_url(recorder: Recorder) -> str:
    return recorder.url


@pytest.fixture(scope="module")
def gateway_env(collector: Collector) -> dict[str, str]:
    """Traces what its callers trace, and nothing else."""
    return {
        "GATEWAY_OTLP_ENDPOINT": collector.url,
        "GATEWAY_TRACE_FRACTION": "0",
        "GATEWAY_MAX_IN_FLIGHT": "1",
    }


def ask(gateway: RunningGateway, path: str = "/predict", *, sampled: bool = True) -> str:
    """Ask once as part of a new trace; the trace."""
    trace = secrets.token_hex(16)
    header = {"traceparent": f"00-{trace}-00f067aa0ba902b7-{'01' if sampled else '00'}"}
    body = {"inputs": [TENSOR]} if path == INFER else {"data": [ROW], "client_id": "somebody"}
    assert gateway.client.post(path, json=body, headers=header).status_code == 200
    return trace


def spans_of(collector: Collector, trace: str, count: int) -> list[ReceivedSpan]:
    """The spans of a trace, from the outside in, once there are so many."""

    def found() -> list[ReceivedSpan]:
        return [span for span in collector.spans if span.trace == trace]

    wait_until(lambda: len(found()) >= count, 10, f"{count} spans")
    return sorted(found(), key=lambda span: span.kind)


@pytest.mark.parametrize("path", ["/predict", f"/models/{DEFAULT_MODEL}/predict", INFER])
def test_a_callers_trace_goes_through_the_gateway_to_triton(
    gateway: RunningGateway, collector: Collector, recorder: Recorder, path: str
) -> None:
    trace = ask(gateway, path)
    request, inference = spans_of(collector, trace, 2)
    assert request.kind == SERVER
    assert request.parent == "00f067aa0ba902b7"
    assert request.name == "POST " + path.replace(DEFAULT_MODEL, "{model}")
    attributes = request.attributes
    assert (attributes["serving.variant"], attributes["serving.version"]) == ("A", 1)
    assert attributes["http.response.status_code"] == 200
    assert inference.kind == CLIENT
    assert inference.parent == request.span
    assert inference.links == ((trace, request.span),)
    assert f"traceparent: 00-{trace}-{inference.span}-01\r\n".encode() in recorder.sent
    assert collector.resources[0]["service.name"] == "serving-gateway"


def test_an_inference_is_linked_to_all_requests_that_share_it(
    gateway: RunningGateway, collector: Collector
) -> None:
    def merged() -> ReceivedSpan | None:
        with ThreadPoolExecutor(16) as clients:
            list(clients.map(lambda _: ask(gateway), range(64)))
        return next((one for one in collector.of(CLIENT) if len(one.links) > 1), None)

    wait_until(lambda: merged() is not None, 20, "an inference of several requests")
    shared = merged()
    assert shared is not None
    assert shared.attributes["serving.requests"] == len(shared.links)
    wait_until(
        lambda: {link[1] for link in shared.links} <= {one.span for one in collector.of(SERVER)},
        10,
        "the requests that share it",
    )
    requests = {one.span: one for one in collector.of(SERVER)}
    first, *others = (requests[span] for _, span in shared.links)
    assert (shared.trace, shared.parent) == (first.trace, first.span)
    assert len({first.trace, *(one.trace for one in others)}) == len(shared.links)
    assert all(one.links == ((shared.trace, shared.span),) for one in others)


def test_a_caller_that_does_not_trace_is_not_traced_and_its_trace_goes_on(
    gateway: RunningGateway, collector: Collector, recorder: Recorder
) -> None:
    quiet = ask(gateway, sampled=False)
    gateway.predict()
    spans_of(collector, ask(gateway), 2)
    assert all(span.trace != quiet for span in collector.spans)
    assert all(span.parent for span in collector.spans)  # none began here
    assert re.search(b"traceparent: 00-%s-[0-9a-f]{16}-00\r\n" % quiet.encode(), recorder.sent)


def test_a_refused_request_is_traced_with_its_status_and_is_no_failure(
    gateway: RunningGateway, collector: Collector
) -> None:
    trace = secrets.token_hex(16)
    answer = gateway.client.post(
        "/predict", json={"data": [[1.0]]}, headers={"traceparent": f"00-{trace}-{'1' * 16}-01"}
    )
    (refused,) = spans_of(collector, trace, 1)
    assert refused.attributes["http.response.status_code"] == answer.status_code == 422
    assert refused.attributes["http.route"] == "/predict"
    assert not refused.failed


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"data": [ROW], "client_id": SECRET}, 200),
        ({"data": [[SECRET, 1, 2, 3]]}, 422),
        ({"entity_id": SECRET}, 422),
        ({SECRET: 1}, 422),
    ],
    ids=["client", "value", "entity", "field"],
)
def test_no_span_holds_what_a_client_sent(
    gateway: RunningGateway, collector: Collector, body: dict[str, Any], status: int
) -> None:
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{'1' * 16}-01", "x-request-id": SECRET}
    answer = gateway.client.post(f"/predict?key={SECRET}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    spans_of(collector, trace, 2 if status == 200 else 1)
    assert [export for export in collector.exports if SECRET.encode() in export] == []
    assert {name for span in collector.spans for name in span.attributes} <= ATTRIBUTES


def test_a_collector_that_never_answers_delays_no_request_and_no_end(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    with socket.create_server((LOOPBACK, 0)) as deaf:
        env = {
            "GATEWAY_OTLP_ENDPOINT": f"http://{LOOPBACK}:{deaf.getsockname()[1]}",
            "GATEWAY_TRACE_FRACTION": "1",
        }
        with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
            gateway.routed(1)
            answers = asyncio.run(many_answers(gateway.url))
            assert {answer.status for answer in answers} == {200}
            assert max(answer.seconds for answer in answers) < 2
            started = time.monotonic()
            gateway.process.stop()
            assert time.monotonic() - started < 6


async def many_answers(url: str) -> list[Answer]:
    """Answers to more requests than the queue of spans holds."""
    async with Load(url, 16) as load:
        await asyncio.to_thread(wait_until, lambda: len(load.answers) > 3000, 60, "answers")
    return load.answers
