"""An unmodified `tritonclient.http` pointed at the gateway, and what it cannot reach there."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import RunningGateway, run_gateway, serve_versions
from tests.support.onnx_models import string_echo, telltale, write_entry
from tests.support.servers import run_triton, wait_until

ROWS = np.array([[1, 2, 3, 4], [0.5, 0.25, 0, 9]], dtype=np.float32)
CLIENT_B = next(
    f"c{i}" for i in range(999) if int(sha256(f"c{i}".encode()).hexdigest(), 16) % 100 < 50
)


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    return {"A": 1, "B": 2}


@pytest.fixture(scope="module")
def gateway(gateway: RunningGateway) -> RunningGateway:
    """Half of the clients are on B."""
    assert gateway.traffic("split", 50).status_code == 200
    return gateway


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[Any]:
    with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as found:
        yield found


def inputs(kind: Any, rows: np.ndarray[Any, Any] = ROWS, *, binary: bool = True) -> list[Any]:
    tensor = kind.InferInput("features", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return [tensor]


def test_health_and_metadata_tell_of_effective_versions_only(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(DEFAULT_MODEL)
    assert client.is_model_ready(DEFAULT_MODEL, "2")
    assert not client.is_model_ready(DEFAULT_MODEL, "3")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "serving-gateway"
    metadata = client.get_model_metadata(DEFAULT_MODEL)
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]
    stats = client.get_inference_statistics(DEFAULT_MODEL)["model_stats"]
    assert [entry["version"] for entry in stats] == ["1"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_go_through_in_either_encoding(
    client: Any, binary_in: bool, binary_out: bool
) -> None:
    wanted = [
        triton_http.InferRequestedOutput(name, binary_data=binary_out)
        for name in ("label", "probabilities")
    ]
    result = client.infer(
        DEFAULT_MODEL, inputs(triton_http, binary=binary_in), outputs=wanted, request_id="r-1"
    )
    assert result.as_numpy("label").ravel().tolist() == [1, 1]
    expected = np.exp(ROWS[:, :3])
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(result.as_numpy("probabilities"), expected, atol=1e-6)
    answer = result.get_response()
    assert (answer["model_version"], answer["id"]) == ("1", "r-1")


@pytest.mark.parametrize(
    ("value", "why"), [(np.nan, "is NaN; .* may not be"), (-np.inf, "is infinite")]
)
def test_what_is_not_a_number_is_refused_in_json_with_its_place(
    client: Any, value: float, why: str
) -> None:
    rows = ROWS.copy()
    rows[1, 3] = value
    with pytest.raises(InferenceServerException, match=rf"inputs\[0\]\.data\[7\] {why}") as caught:
        client.infer(DEFAULT_MODEL, inputs(triton_http, rows, binary=False))
    assert caught.value.status() == "422"


def test_the_client_s_variant_answers(client: Any) -> None:
    by_header = client.infer(DEFAULT_MODEL, inputs(triton_http), headers={"x-client-id": CLIENT_B})
    assert by_header.as_numpy("label").ravel().tolist() == [2, 2]
    by_parameter = client.infer(
        DEFAULT_MODEL, inputs(triton_http), parameters={"client_id": CLIENT_B}
    )
    assert by_parameter.get_response()["model_version"] == "2"
    named = client.infer(DEFAULT_MODEL, inputs(triton_http), model_version="2")
    assert named.get_response()["model_version"] == "2"


async def test_the_asynchronous_client_works_the_same(gateway: RunningGateway) -> None:
    async with triton_aio.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_metadata(DEFAULT_MODEL))["name"] == DEFAULT_MODEL
        result = await client.infer(DEFAULT_MODEL, inputs(triton_aio))
        assert result.as_numpy("label").ravel().tolist() == [1, 1]
        with pytest.raises(InferenceServerException, match="does not host"):
            await client.infer("other", inputs(triton_aio))


@pytest.mark.parametrize(
    ("model", "version", "reason"),
    [
        ("other", "", "does not host 'other'"),
        (DEFAULT_MODEL, "3", "does not route to best_model version 3"),
        (DEFAULT_MODEL, "x", "not a version"),
    ],
)
def test_what_is_not_effective_does_not_answer(
    client: Any, model: str, version: str, reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason) as caught:
        client.infer(model, inputs(triton_http), model_version=version)
    assert caught.value.status() == "404"


def test_wrong_shape_is_refused_with_its_place(client: Any) -> None:
    wide = np.zeros((1, 5), dtype=np.float32)
    with pytest.raises(InferenceServerException, match=r"inputs\[0\].shape is \[1, 5\]"):
        client.infer(DEFAULT_MODEL, inputs(triton_http, wide))
    assert client.is_model_ready(DEFAULT_MODEL)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", f"/v2/repository/models/{DEFAULT_MODEL}/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("GET", "/v2/logging"),
        ("GET", "/v2/trace/setting"),
        ("GET", f"/v2/models/{DEFAULT_MODEL}/trace/setting"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/../repository"),
        ("GET", "/v2/models/best_model%2F..%2F..%2Flogging"),
        ("POST", f"/v2/models/{DEFAULT_MODEL}/generate"),
    ],
)
def test_nothing_else_of_triton_is_reachable(
    gateway: RunningGateway, method: str, path: str
) -> None:
    answer = gateway.client.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{}", {}, 422),
        (b'{"inputs":1}', {}, 422),
        (b'{"inputs":NaN}', {}, 422),
        (b'{"inputs":[NaN}', {}, 400),
        (b'{"inputs":[],"id":"NaN\xff"}', {}, 400),
        (b'{"inputs":[],"other":["null\xff"]}', {}, 400),
        (b'{"inputs":[],"other":[null,' + b"9" * 5000 + b"]}", {}, 422),
        (b'{"inputs":[]}', {"inference-header-content-length": "99"}, 400),
        (b'{"inputs":[]}', {"inference-header-content-length": "-1"}, 400),
        (b'{"inputs":[]}', {"content-encoding": "br"}, 415),
        (b'{"inputs":[]}', {"content-encoding": "gzip"}, 400),
        (
            b'{"inputs":[{"name":"features","parameters":{"shared_memory_region":"r"}}]}',
            {},
            422,
        ),
        (
            b'{"inputs":[],"outputs":[{"name":"label","parameters":{"shared_memory_region":"r"}}]}',
            {},
            422,
        ),
    ],
)
def test_a_wrong_request_is_refused_here(
    gateway: RunningGateway, content: bytes, headers: dict[str, str], status: int
) -> None:
    path = f"/v2/models/{DEFAULT_MODEL}/infer"
    answer = gateway.client.post(path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert gateway.client.get(path).status_code == 405


def test_text_goes_through(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, "echo", {1: string_echo()})
    env = {"GATEWAY_MODEL_NAME": "echo"}
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
        triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client,
    ):
        gateway.routed(1)
        words = np.array([["ä"], ["longer"]], dtype=np.object_)
        tensor = triton_http.InferInput("text", [2, 1], "BYTES")
        tensor.set_data_from_numpy(words)
        echoed = client.infer("echo", [tensor]).as_numpy("echo")
        assert [word.decode() for word in echoed.ravel()] == ["ä", "longer"]
        assert gateway.predict(["ä"], ["longer"]).json()["predictions"] == ["ä", "longer"]


def test_a_lost_version_is_503_with_the_reason(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        serve_versions(triton, 2)
        body = {"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32"}]}
        body["inputs"][0]["data"] = [1, 2, 3, 4]

        def ask() -> httpx.Response:
            return gateway.client.post(f"/v2/models/{DEFAULT_MODEL}/infer", json=body)

        lost = ask()
        assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
        ready = f"/v2/models/{DEFAULT_MODEL}/ready"
        wait_until(lambda: gateway.client.get(ready).status_code == 400, 5, "it is not ready")
        # The replica still answers for its other models.
        assert gateway.client.get("/v2/health/ready").status_code == 200
        assert gateway.client.get("/v2/health/live").status_code == 200
        triton.kill()
        assert ask().status_code == 503
        triton.restart()
        wait_until(lambda: ask().status_code == 200, 20, "healed")
