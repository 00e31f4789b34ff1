"""What stands around a prediction: keys, heads, traces, and clients that leave."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from serving_gateway.contract import DEFAULT_MODEL
from tests.support import sockets
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.onnx_models import telltale, write_entry
from tests.support.recorder import Recorder, run_recorder
from tests.support.servers import LOOPBACK, ROOT, RunningTriton, run_triton, wait_until

KEYS = ("first-key-0123456789", "second-key-0123456789")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def keyed(
    tmp_path_factory: pytest.TempPathFactory, shared_triton: RunningTriton
) -> Iterator[RunningGateway]:
    """A gateway that wants a key for predictions, with A on version 1."""
    home = tmp_path_factory.mktemp("keyed")
    env = {"GATEWAY_API_KEYS": ", ".join(KEYS), "GATEWAY_MAX_HEAD_BYTES": "4096"}
    with run_gateway(home, shared_triton.http_url, env=env) as running:
        running.routed(1)
        yield running


@pytest.mark.parametrize("path", ["/predict", f"/models/{DEFAULT_MODEL}/predict"])
def test_a_prediction_needs_one_of_the_keys(keyed: RunningGateway, path: str) -> None:
    def ask(**headers: str) -> int:
        body = {"data": [ROW]}
        return keyed.client.post(path, json=body, headers=headers).status_code

    assert ask() == 401
    assert ask(**{"x-api-key": KEYS[0][:-1]}) == 401
    assert ask(authorization=f"Basic {KEYS[0]}") == 401
    assert [ask(**{"x-api-key": key}) for key in KEYS] == [200, 200]
    assert ask(authorization=f"Bearer {KEYS[1]}") == 200


def test_the_protocol_needs_a_key_and_a_prober_does_not(keyed: RunningGateway) -> None:
    tensor = triton_http.InferInput("features", [1, 4], "FP32")
    tensor.set_data_from_numpy(np.array([ROW], dtype=np.float32))
    with triton_http.InferenceServerClient(keyed.url.removeprefix("http://")) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(DEFAULT_MODEL)
        for call in (client.get_model_metadata, client.get_model_config):
            with pytest.raises(InferenceServerException, match="API_KEYS"):
                call(DEFAULT_MODEL)
        with pytest.raises(InferenceServerException, match="API_KEYS"):
            client.infer(DEFAULT_MODEL, [tensor])
        found = client.infer(DEFAULT_MODEL, [tensor], headers={"X-API-Key": KEYS[0]})
        assert found.as_numpy("label").ravel().tolist() == [1]
    assert keyed.client.get("/ready").status_code == 200
    assert keyed.client.get("/metrics").status_code == 401


def test_a_key_is_no_control_token_and_is_never_logged(keyed: RunningGateway) -> None:
    keyed.client.post("/predict", json={"data": [ROW]}, headers={"x-api-key": KEYS[0] + "x"})
    log = keyed.process.log.read_text()
    assert not any(key in log for key in KEYS)


def exchange(gateway: RunningGateway, *parts: bytes) -> bytes:
    """Send the parts one by one, then read until the gateway closes the connection."""
    return sockets.exchange((LOOPBACK, urlsplit(gateway.url).port or 0), *parts)


START = b"GET /health HTTP/1.1\r\nhost: g\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (START, b"x: " + b"a" * 5_000 + b"\r\n\r\n"),
        (START + b"x: " + b"a" * 200_000 + b"\r\n\r\n",),
        (START, *([b"x: " + b"a" * 1_000 + b"\r\n"] * 20)),
        (b"GET /" + b"a" * 50_000,),
    ],
    ids=["in pieces", "at once", "without end", "the target"],
)
def test_a_head_over_the_limit_is_refused(keyed: RunningGateway, parts: tuple[bytes, ...]) -> None:
    head, _, body = exchange(keyed, *parts).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["code"] == "head_too_large"
    assert keyed.client.get("/health").status_code == 200


def test_a_head_within_the_limit_is_read_and_a_large_body_does_not_count(
    keyed: RunningGateway,
) -> None:
    assert b"HTTP/1.1 200 " in exchange(keyed, START, b"x: " + b"a" * 3_000 + b"\r\n\r\n")
    body = json.dumps({"data": [ROW]}) + " " * 50_000
    answer = keyed.client.post("/predict", content=body, headers={"x-api-key": KEYS[0]})
    assert answer.status_code == 200


CHUNKED = b"POST /predict HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "trailers",
    [[b"x: " + b"a" * 1_000 + b"\r\n"] * 3_000, [b"x: ", *[b"a" * 10_000] * 300]],
    ids=["many", "one"],
)
def test_trailers_without_end_are_cut_off(keyed: RunningGateway, trailers: list[bytes]) -> None:
    before = keyed.process.server.memory_info().rss
    exchange(keyed, CHUNKED + b"0\r\n", *trailers)
    assert keyed.process.server.memory_info().rss - before < 2_000_000
    assert keyed.client.get("/health").status_code == 200


def test_chunks_and_pipelined_requests_are_no_part_of_a_head(keyed: RunningGateway) -> None:
    body = json.dumps({"data": [ROW]}).encode() + b" " * 20_000
    key = b"x-api-key: " + KEYS[0].encode() + b"\r\n"
    chunked = CHUNKED[:-2] + key + b"connection: close\r\n\r\n"
    # The read ends right after the size of the second chunk.
    first = b"%x\r\n" % len(body) + body + b"\r\n10\r\n"
    rest = b" " * 16 + b"\r\n0\r\nx: a trailer\r\n\r\n"
    assert exchange(keyed, chunked + first, rest).startswith(b"HTTP/1.1 200 ")
    length = b"content-length: %d\r\n\r\n" % len(body)
    plain = b"POST /predict HTTP/1.1\r\nhost: g\r\n" + key + length
    address = (LOOPBACK, urlsplit(keyed.url).port or 0)
    with socket.create_connection(address, 10) as client:
        client.sendall(plain + body + START[:30])
        # Answered, so that the read ended within the head of the second request.
        assert one_answer(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(START[30:] + b"\r\n")
        assert one_answer(client).startswith(b"HTTP/1.1 200 ")


def one_answer(client: socket.socket) -> bytes:
    """A whole answer: its head and its body may come apart."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65_536)
    return head


def test_bytes_that_are_not_http_are_refused_as_such(keyed: RunningGateway) -> None:
    head, _, body = exchange(keyed, b"hello\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == "malformed_body"


@pytest.fixture
def recorder(shared_triton: RunningTriton) -> Iterator[Recorder]:
    with run_recorder(shared_triton) as running:
        yield running


def test_a_trace_goes_on_to_triton_when_it_is_one(tmp_path: Path, recorder: Recorder) -> None:
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": ROW}
    bad = ("00-xyz", TRACE + "-00", TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32))
    with run_gateway(tmp_path, recorder.url) as gateway:
        gateway.routed(1)

        def passed(trace: str, path: str, body: dict[str, Any]) -> bytes:
            seen = len(recorder.sent)
            answer = gateway.client.post(path, json=body, headers={"traceparent": trace})
            assert answer.status_code == 200
            return bytes(recorder.sent[seen:])

        for path, body in (
            ("/predict", {"data": [ROW]}),
            (f"/v2/models/{DEFAULT_MODEL}/infer", {"inputs": [tensor]}),
        ):
            assert f"traceparent: {TRACE}\r\n".encode() in passed(TRACE, path, body)
            for trace in bad:
                found = passed(trace, path, body)
                assert b"/infer" in found
                assert b"traceparent" not in found


PATIENT = {
    "GATEWAY_MAX_IN_FLIGHT": "1",
    "GATEWAY_REQUEST_SECONDS": "30",
    "GATEWAY_PROBE_SECONDS": "30",
    "GATEWAY_STALENESS_SECONDS": "30",
}
"""A gateway that waits for a Triton that stands still; its metrics are new once a second."""


def test_a_client_that_leaves_while_it_waits_costs_nothing(tmp_path: Path) -> None:
    write_entry(tmp_path / "repository", DEFAULT_MODEL, {1: telltale(1)})
    with (
        run_triton(tmp_path / "repository", tmp_path / "triton") as triton,
        run_gateway(tmp_path, triton.http_url, env=PATIENT) as gateway,
    ):
        gateway.routed(1)
        before = rows_inferred(triton)
        body = json.dumps({"data": [ROW]}).encode()
        request = b"POST /predict HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n" % len(body)
        address = (LOOPBACK, urlsplit(gateway.url).port or 0)
        triton.process.signal(signal.SIGSTOP)
        stays, *leaves = [socket.create_connection(address, 20) for _ in range(6)]
        for number, client in enumerate((stays, *leaves), 1):
            client.sendall(request + body)
            wait_until(lambda n=number: in_flight(gateway) == n, 5, "the request to wait")  # type: ignore[misc]
        ports = {client.getsockname()[1] for client in leaves}
        assert ports < clients_of(gateway)
        for client in leaves:
            client.close()
        wait_until(lambda: not ports & clients_of(gateway), 5, "the gateway to see them leave")
        triton.process.signal(signal.SIGCONT)
        assert stays.recv(65_536).startswith(b"HTTP/1.1 200 ")
        stays.close()
        wait_until(lambda: in_flight(gateway) == 0, 5, "nothing to be under way")
        assert rows_inferred(triton) == before + 1
        assert gateway.predict().status_code == 200


def rows_inferred(triton: RunningTriton) -> int:
    url = f"{triton.http_url}/v2/models/{DEFAULT_MODEL}/versions/1/stats"
    found = httpx.get(url, trust_env=False).json()
    return int(found["model_stats"][0]["inference_count"])


def in_flight(gateway: RunningGateway) -> float:
    """Requests that the gateway works on, without the one that asks."""
    return gateway.metric("gateway_requests_in_flight") - 1


def clients_of(gateway: RunningGateway) -> set[int]:
    """Ports of the clients that the gateway still holds a connection to."""
    return {
        one.raddr.port
        for one in gateway.process.server.net_connections("tcp")
        if one.status == psutil.CONN_ESTABLISHED and one.raddr
    }


def test_clients_that_left_take_no_place_in_the_queue(tmp_path: Path) -> None:
    write_entry(tmp_path / "repository", DEFAULT_MODEL, {1: telltale(1)})
    env = {**PATIENT, "GATEWAY_MAX_QUEUED": "2"}
    with (
        run_triton(tmp_path / "repository", tmp_path / "triton") as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
    ):
        gateway.routed(1)
        body = json.dumps({"data": [ROW]}).encode()
        request = b"POST /predict HTTP/1.1\r\nhost: g\r\ncontent-length: %d\r\n\r\n" % len(body)
        address = (LOOPBACK, urlsplit(gateway.url).port or 0)
        triton.process.signal(signal.SIGSTOP)
        for _ in range(3):
            with socket.create_connection(address, 20) as client:
                client.sendall(request + body)
                wait_until(lambda: in_flight(gateway) == 1, 5, "the request to wait")
                port = client.getsockname()[1]
            wait_until(lambda p=port: p not in clients_of(gateway), 5, "the client to be gone")  # type: ignore[misc]
            wait_until(lambda: in_flight(gateway) == 0, 5, "the place to be free")
        with socket.create_connection(address, 20) as stays:
            stays.sendall(request + body)
            wait_until(lambda: in_flight(gateway) == 1, 5, "the request to wait")
            triton.process.signal(signal.SIGCONT)
            assert stays.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "path",
    [
        f"/models/{DEFAULT_MODEL}/versions/7/predict",
        f"/models/{DEFAULT_MODEL}/variant/B/predict",
        f"/models/{DEFAULT_MODEL}//predict",
        f"/models/{DEFAULT_MODEL}%2Fx/predict",
        "/models//predict",
    ],
)
def test_a_path_that_does_not_exist_answers_nothing(keyed: RunningGateway, path: str) -> None:
    headers = {"x-api-key": KEYS[0]}
    answer = keyed.client.post(path, json={"data": [ROW]}, headers=headers)
    assert answer.status_code in {404, 405}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        (
            "POST",
            f"/v2/models/{DEFAULT_MODEL}/infer",
            {"inference-header-content-length": "1" * 5_000},
            431,
        ),
        (
            "POST",
            f"/v2/models/{DEFAULT_MODEL}/infer",
            {"inference-header-content-length": "1" * 3_000},
            400,
        ),
        ("PUT", "/v2/health/live", {}, 405),
        ("GET", "/shadow", {"origin": "http://["}, 403),
        ("POST", "/variant/A/rollback", {"origin": "http://["}, 403),
    ],
)
def test_odd_requests_are_refused_in_words(
    keyed: RunningGateway, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    headers = {"x-api-key": KEYS[0], **headers}
    answer = keyed.client.request(method, path, headers=headers, content=b"{}")
    assert answer.status_code == status
    if status == 405:
        assert answer.headers["allow"] == "GET, HEAD"


def test_an_empty_token_or_key_is_no_setting() -> None:
    for name in ("GATEWAY_CONTROL_TOKEN", "GATEWAY_API_KEYS"):
        done = subprocess.run(
            [sys.executable, "-m", "serving_gateway"],
            env={name: ""},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 2
        assert "at least 16" in done.stderr or "fewer than 16" in done.stderr
