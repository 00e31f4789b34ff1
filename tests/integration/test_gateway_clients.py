"""Clients that others wrote, unmodified, against the gateway.

tritonclient and curl are here. mlserver 1.7.1 and kserve 0.21.0 need packages older than those
of the lock files, and not every machine has Java: their requests are replayed as those programs
sent them.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import ROW, RunningGateway
from tests.support.servers import LOOPBACK

INFER = f"/v2/models/{DEFAULT_MODEL}/infer"
VALUES = np.array([ROW], dtype=np.float32)
ROWS = 50
PAYLOAD = json.dumps({"data": [ROW]})


@dataclass(frozen=True, slots=True)
class Reply:
    """One response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def replay(gateway: RunningGateway, *requests: bytes) -> list[Reply]:
    """Send requests over one connection, each after the response to the one before."""
    replies = []
    address = (LOOPBACK, int(gateway.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as connection:
        for request in requests:
            connection.sendall(request)
            with http.client.HTTPResponse(connection) as response:
                response.begin()
                replies.append(Reply(response.status, response.headers, response.read()))
    return replies


def request(method: str, path: str, headers: str, body: bytes = b"") -> bytes:
    """Bytes of a request; `headers` has one a line, as the client sent them."""
    lines = [f"{method} {path} HTTP/1.1", *headers.strip().splitlines()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*(line.strip() for line in lines), "", ""]).encode() + body


# tritonclient


def tensor(kind: Any, *, binary: bool) -> Any:
    made = kind.InferInput("features", [1, 4], "FP32")
    made.set_data_from_numpy(VALUES, binary_data=binary)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_infers(gateway: RunningGateway, binary: bool) -> None:
    with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(DEFAULT_MODEL)
        result = client.infer(DEFAULT_MODEL, [tensor(triton_http, binary=binary)])
        assert result.as_numpy("label").ravel().tolist() == [1]


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_infers_asynchronously(gateway: RunningGateway, binary: bool) -> None:
    async with triton_aio.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        assert await client.is_model_ready(DEFAULT_MODEL)
        result = await client.infer(DEFAULT_MODEL, [tensor(triton_aio, binary=binary)])
        assert result.as_numpy("label").ravel().tolist() == [1]


# curl


def curl(gateway: RunningGateway, path: str, *options: str) -> tuple[int, bytes]:
    """Status and body, as curl reads them."""
    command = ["curl", "-sS", "--noproxy", "*", "-m", "10", "-w", "\n%{http_code}"]
    done = subprocess.run(
        [*command, *options, gateway.url + path], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


JSON = ("-H", "content-type: application/json")


def test_curl_predicts(gateway: RunningGateway) -> None:
    status, body = curl(gateway, "/predict", *JSON, "-d", PAYLOAD)
    assert (status, json.loads(body)["predictions"]) == (200, [1])


def test_curl_sends_a_large_body_after_100_continue(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"data": [ROW] * ROWS}, indent=900))
    options = (*JSON, "-H", "expect: 100-continue", "--data-binary", f"@{file}")
    status, body = curl(gateway, "/predict", *options, "--expect100-timeout", "9")
    assert status == 200, body
    assert json.loads(body)["predictions"] == [1] * ROWS


def test_curl_sends_a_chunked_body(gateway: RunningGateway) -> None:
    chunked = (*JSON, "-H", "transfer-encoding: chunked", "-d", PAYLOAD)
    status, body = curl(gateway, "/predict", *chunked)
    assert (status, json.loads(body)["predictions"]) == (200, [1])


# mlserver infer

MLSERVER = """
    Host: gateway
    content-type: application/json
    seldon-puid: e881f7fc-7a40-417a-a6f6-8951626cdd7f
    x-request-id: e881f7fc-7a40-417a-a6f6-8951626cdd7f
    Accept: */*
    Accept-Encoding: gzip, deflate, br
    User-Agent: Python/3.11 aiohttp/3.14.5
"""


def test_mlserver_infer_is_answered(gateway: RunningGateway) -> None:
    """`mlserver infer -u HOST:PORT -m best_model -i in.jsonl -o out.jsonl`, two lines.

    It asks for binary outputs by `binary_data_output`, and reads the answer by its header.
    """
    bodies = [
        b'{"id":"e881f7fc-7a40-417a-a6f6-8951626cdd7f","inputs":[{"name":"features",'
        b'"shape":[1,4],"datatype":"FP32","data":[5.099999904632568,3.5,1.399999976158142,'
        b'0.20000000298023224]}],"parameters":{"binary_data_output":true}}',
        b'{"id":"ac4c9c0f-1586-4ea4-97ae-1e868c9a698d","inputs":[{"name":"features",'
        b'"shape":[2,4],"datatype":"FP32","data":[5.099999904632568,3.5,1.399999976158142,'
        b'0.20000000298023224,1.0,2.0,3.0,4.0]}],"parameters":{"binary_data_output":true}}',
    ]
    replies = replay(gateway, *(request("POST", INFER, MLSERVER, body) for body in bodies))
    for rows, reply in enumerate(replies, 1):
        assert reply.status == 200, reply.body
        length = int(reply.headers["inference-header-content-length"])
        head = json.loads(reply.body[:length])
        assert head["id"] in bodies[rows - 1].decode()
        assert (head["model_name"], head["model_version"]) == (DEFAULT_MODEL, "1")
        sizes = [one["parameters"]["binary_data_size"] for one in head["outputs"]]
        assert len(reply.body) == length + sum(sizes)


def test_mlserver_infer_is_answered_with_binary_inputs(gateway: RunningGateway) -> None:
    """`mlserver infer -b`: tensors are binary, and the content type says JSON all the same."""
    head = (
        b'{"id":"0432e21e-e62e-4ec7-b8f3-ff9c123ecca5","inputs":[{"name":"features",'
        b'"shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}],'
        b'"parameters":{"binary_data_output":true}}'
    )
    headers = f"{MLSERVER.rstrip()}\n    Inference-Header-Content-Length: {len(head)}"
    (reply,) = replay(gateway, request("POST", INFER, headers, head + VALUES.tobytes()))
    assert reply.status == 200, reply.body


# KServe's InferenceRESTClient

KSERVE = """
    Host: gateway
    Accept: */*
    Accept-Encoding: gzip, deflate
    Connection: keep-alive
    User-Agent: python-httpx/0.28.1
"""


def test_kserve_client_infers(gateway: RunningGateway) -> None:
    body = (
        b'{"id":"cf419204-f9c6-4148-8b54-8e47512f17a4","model_name":"best_model","inputs":['
        b'{"name":"features","shape":[1,4],"datatype":"FP32","data":[5.099999904632568,3.5,'
        b"1.399999976158142,0.20000000298023224]}]}"
    )
    headers = f"{KSERVE.rstrip()}\n    content-type: application/json"
    (reply,) = replay(gateway, request("POST", INFER, headers, body))
    assert reply.status == 200, reply.body
    # As `InferResponse.from_bytes` reads it.
    assert reply.json["id"] == "cf419204-f9c6-4148-8b54-8e47512f17a4"
    assert reply.json["model_version"] == "1"
    (label,) = (one for one in reply.json["outputs"] if one["name"] == "label")
    assert (label["shape"], label["data"]) == ([1, 1], [1])


def test_kserve_client_infers_with_binary_inputs(gateway: RunningGateway) -> None:
    head = (
        b'{"id":"28304348-3f95-4e5d-b3bc-7d8cc741fa09","model_name":"best_model","inputs":['
        b'{"name":"features","shape":[1,4],"datatype":"FP32",'
        b'"parameters":{"binary_data_size":16}}]}'
    )
    headers = f"""{KSERVE.rstrip()}
        inference-header-content-length: {len(head)}
        content-type: application/octet-stream"""
    (reply,) = replay(gateway, request("POST", INFER, headers, head + VALUES.tobytes()))
    assert reply.status == 200, reply.body


def test_kserve_client_asks_whether_a_model_is_ready(gateway: RunningGateway) -> None:
    paths = (f"/v2/models/{DEFAULT_MODEL}/ready", "/v2/models/other/ready")
    known, unknown = replay(gateway, *(request("GET", path, KSERVE) for path in paths))
    assert known.status == 200
    assert 400 <= unknown.status < 500


# What the rebuilt HTTP layer brings

JAVA = """
    Connection: Upgrade, HTTP2-Settings
    Host: gateway
    HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA
    Upgrade: h2c
    User-Agent: Java-http-client/17.0.15
    content-type: application/json
"""


def test_java_http_client_is_answered_in_http_1(gateway: RunningGateway) -> None:
    """`HttpClient.newHttpClient()` offers h2c with every request to a plain address."""
    sent = request("POST", "/predict", JAVA, PAYLOAD.encode())
    for reply in replay(gateway, sent, sent):
        assert reply.status == 200, reply.body
        assert reply.json["predictions"] == [1]


def test_request_behind_an_offer_of_h2c_is_answered(gateway: RunningGateway) -> None:
    offer = request("POST", "/predict", JAVA, PAYLOAD.encode())
    plain = request("GET", "/health", "Host: gateway")
    address = (LOOPBACK, int(gateway.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(offer + plain)
        with connection.makefile("rb") as stream:
            statuses = []
            for _ in range(2):
                statuses.append(stream.readline().split()[1])
                headers = http.client.parse_headers(stream)
                stream.read(int(headers["content-length"]))
    assert statuses == [b"200", b"200"]


def test_curl_may_offer_http_2(gateway: RunningGateway) -> None:
    status, body = curl(gateway, "/predict", "--http2", *JSON, "-d", PAYLOAD)
    assert status == 200, body
    assert json.loads(body)["predictions"] == [1]


def test_kserve_client_reads_that_the_server_lives_and_is_ready(gateway: RunningGateway) -> None:
    paths = ("/v2/health/live", "/v2/health/ready")
    live, ready = replay(gateway, *(request("GET", path, KSERVE) for path in paths))
    assert (live.status, live.json.get("live")) == (200, True)
    assert (ready.status, ready.json.get("ready")) == (200, True)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_compresses_requests_and_responses(
    gateway: RunningGateway, algorithm: str, binary: bool
) -> None:
    with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        result = client.infer(
            DEFAULT_MODEL,
            [tensor(triton_http, binary=binary)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert result.as_numpy("label").ravel().tolist() == [1]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_tritonclient_compresses_requests_asynchronously(
    gateway: RunningGateway, algorithm: str
) -> None:
    async with triton_aio.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        result = await client.infer(
            DEFAULT_MODEL,
            [tensor(triton_aio, binary=True)],
            request_compression_algorithm=algorithm,
        )
        assert result.as_numpy("label").ravel().tolist() == [1]


def test_curl_sends_a_compressed_body(gateway: RunningGateway, tmp_path: Path) -> None:
    file = tmp_path / "body.json.gz"
    file.write_bytes(gzip.compress(PAYLOAD.encode()))
    options = (*JSON, "-H", "content-encoding: gzip", "--data-binary", f"@{file}")
    status, body = curl(gateway, "/predict", *options)
    assert status == 200, body
    assert json.loads(body)["predictions"] == [1]
