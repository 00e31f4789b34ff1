"""Compressed requests and responses, as clients send and ask for them."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import run_triton

ROWS = np.array([ROW] * 64, dtype=np.float32)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("path", ["/predict", f"/models/{DEFAULT_MODEL}/predict"])
def test_predict_reads_compressed_bodies(gateway: RunningGateway, encoding: str, path: str) -> None:
    body = json.dumps({"data": [ROW] * 3}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    answer = gateway.client.post(path, content=packed, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [1, 1, 1]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_tritonclient_compresses_requests_and_responses(
    gateway: RunningGateway, encoding: str, binary: bool
) -> None:
    tensor = triton_http.InferInput("features", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        found = client.infer(
            DEFAULT_MODEL,
            [tensor],
            request_compression_algorithm=encoding,
            response_compression_algorithm=encoding,
        )
        assert found.as_numpy("label").ravel().tolist() == [1] * len(ROWS)


async def test_asynchronous_tritonclient_compresses_too(gateway: RunningGateway) -> None:
    tensor = triton_aio.InferInput("features", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    async with triton_aio.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        found = await client.infer(
            DEFAULT_MODEL,
            [tensor],
            request_compression_algorithm="gzip",
            response_compression_algorithm="gzip",
        )
        assert found.as_numpy("label").ravel().tolist() == [1] * len(ROWS)


@pytest.mark.parametrize(
    "path", ["/predict", f"/v2/models/{DEFAULT_MODEL}/infer", "/variant/A/reload"]
)
def test_a_body_that_unpacks_beyond_the_limit_costs_no_memory(
    gateway: RunningGateway, path: str
) -> None:
    bomb = gzip.compress(b" " * 200_000_000)[:1_000_000]
    before = gateway.process.server.memory_info().rss
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    for content in (bomb, gzip.compress(b" " * 40_000_000)):
        answer = gateway.client.post(path, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert gateway.process.server.memory_info().rss - before < 20_000_000
    headers["content-encoding"] = "br"
    assert gateway.client.post(path, content=b"{}", headers=headers).status_code == 415


def test_large_and_control_responses_are_compressed_on_request(gateway: RunningGateway) -> None:
    asked = {"accept-encoding": "gzip"}
    for path in ("/models", "/metrics", "/openapi.json"):
        answer = gateway.client.get(path, headers=asked)
        assert answer.headers["content-encoding"] == "gzip", path
        plain = gateway.client.get(path, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert "access-control-allow-origin" not in plain.headers
    small = gateway.client.post("/predict", json={"data": [ROW]}, headers=asked)
    assert "content-encoding" not in small.headers


def test_large_predictions_are_compressed_on_request(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)}, max_batch_size=1024)
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        rows = np.array([ROW] * 1_000, dtype=np.float32)
        answer = gateway.predict(*rows.tolist())
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.json()["predictions"] == [1] * len(rows)
        tensor = triton_http.InferInput("features", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
            found = client.infer(DEFAULT_MODEL, [tensor], response_compression_algorithm="gzip")
            assert found.as_numpy("label").ravel().tolist() == [1] * len(rows)
