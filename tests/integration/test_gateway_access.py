"""Who may do what at a running gateway: generated and named tokens, hosts, origins, keys, paths."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway
from tests.support.servers import LOOPBACK, RunningTriton, wait_until
from tests.support.sockets import exchange

TOKEN, ALICE = "default-token-0123456789", "alice-token-0123456789"
KEY = "key-0123456789abcdef"
APP = "https://app.example.com"


@pytest.fixture(scope="module")
def gateway_env() -> dict[str, str]:
    """No token; pages of one origin may ask to predict."""
    return {"GATEWAY_CORS_ORIGINS": APP}


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    return {"A": 1, "B": 2}


@pytest.fixture(scope="module")
def keyed(
    tmp_path_factory: pytest.TempPathFactory, shared_triton: RunningTriton
) -> Iterator[RunningGateway]:
    """A gateway with API keys and two control tokens; its client sends neither."""
    env = {
        "GATEWAY_API_KEYS": KEY,
        "GATEWAY_CONTROL_TOKEN": f"{TOKEN}\n",
        "GATEWAY_CONTROL_TOKENS": f"alice:{ALICE}",
    }
    with run_gateway(tmp_path_factory.mktemp("keyed"), shared_triton.http_url, env=env) as running:
        body = {"version": 1, "run_id": "run-1"}
        answer = running.client.post("/variant/A/reload", json=body, headers=bearer(TOKEN))
        assert answer.status_code == 200, answer.text
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_without_a_token_one_is_generated_and_loopback_alone_changes_nothing(
    gateway: RunningGateway,
) -> None:
    file = gateway.state_dir / "control-token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    logged = [json.loads(line) for line in gateway.process.log.read_text().splitlines()]
    assert [line["file"] for line in logged if "file" in line] == [str(file.absolute())]
    assert gateway.control_token not in gateway.process.log.read_text()
    with httpx.Client(base_url=gateway.url, trust_env=False) as anonymous:
        refused = anonymous.post("/variant/A/rollback")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert anonymous.put("/traffic", json={"strategy": "off"}).status_code == 401
        assert anonymous.delete("/variant/B").status_code == 401
        assert anonymous.delete(f"/models/{DEFAULT_MODEL}").status_code == 401
        assert anonymous.get("/shadow").status_code == 200
    assert gateway.models()["effective"]["A"]["version"] == 1


def test_a_second_process_takes_the_token_of_the_first(
    gateway: RunningGateway, shared_triton: RunningTriton
) -> None:
    home = gateway.state_dir.parent
    with run_gateway(home, shared_triton.http_url, name="second") as second:
        assert second.control_token == gateway.control_token
        assert second.reload(version=1, run_id="run-1").status_code == 200


def test_a_change_is_recorded_by_the_name_of_the_token(keyed: RunningGateway) -> None:
    for token, name in ((ALICE, "token:alice"), (TOKEN, "token:default")):
        policy = {"strategy": "off", "percent": len(name)}
        changed = keyed.client.put("/traffic", json=policy, headers=bearer(token))
        assert changed.status_code == 200, changed.text
        found = keyed.client.get("/models", headers=bearer(token)).json()
        assert found["routing"]["changed_by"] == name
    assert ALICE not in keyed.process.log.read_text()


def test_client_data_is_not_shown_to_a_page_that_rebinds_a_name(gateway: RunningGateway) -> None:
    for path in ("/shadow", f"/models/{DEFAULT_MODEL}/shadow"):
        refused = gateway.client.get(path, headers={"host": "evil.example"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert gateway.client.get(path).status_code == 200
        named = {"host": "gateway.svc", **bearer(gateway.control_token)}
        assert gateway.client.get(path, headers=named).status_code == 200


def test_a_page_of_another_local_port_changes_nothing(gateway: RunningGateway) -> None:
    own = gateway.url
    for origin, status in (("http://localhost:5000", 403), ("null", 403), (own, 200)):
        answer = gateway.client.post(
            "/variant/A/reload", headers={"origin": origin, "content-type": "text/plain"}
        )
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/%76ariant/A/rollback"),
        ("POST", "/variant/A/%72ollback"),
        ("POST", "/variant%2FA/rollback"),
        ("POST", f"/models/{DEFAULT_MODEL}%2fpredict"),
        ("POST", f"/models/{DEFAULT_MODEL}%2fvariant%2fA%2frollback"),
        ("GET", "/mod%65ls"),
        ("GET", "/%73hadow"),
        ("PUT", "/%74raffic"),
    ],
)
def test_an_escaped_path_is_another_path(gateway: RunningGateway, method: str, path: str) -> None:
    headers = bearer(gateway.control_token)

    def refused() -> float:
        return gateway.metric("http_requests_total", method=method, path="other", status="404")

    before = refused()
    answer = gateway.client.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    # The page of metrics is made once a second at most.
    wait_until(lambda: refused() > before, 5, "the refusal to be counted")
    assert gateway.models()["effective"]["A"]["version"] == 1


@pytest.mark.parametrize("hosts", [b"", b"host: a\r\nhost: b\r\n"])
def test_a_request_without_exactly_one_host_is_malformed(
    gateway: RunningGateway, hosts: bytes
) -> None:
    port = urlsplit(gateway.url).port or 0
    request = b"GET /shadow HTTP/1.1\r\n" + hosts + b"connection: close\r\n\r\n"
    assert exchange((LOOPBACK, port), request).startswith(b"HTTP/1.1 400 ")
    old = b"GET /health HTTP/1.0\r\n\r\n"
    assert exchange((LOOPBACK, port), old).startswith(b"HTTP/1.1 200 ")


OPEN = (
    *("/health", "/ready", f"/models/{DEFAULT_MODEL}/health", f"/models/{DEFAULT_MODEL}/ready"),
    *("/v2/health/live", "/v2/health/ready", f"/v2/models/{DEFAULT_MODEL}/ready"),
    *("/", "/docs", "/openapi.json"),  # the same on every gateway of a release
)
CLOSED = (
    *("/models", f"/models/{DEFAULT_MODEL}", "/metrics", "/shadow", "/v2"),
    *(f"/v2/models/{DEFAULT_MODEL}", f"/v2/models/{DEFAULT_MODEL}/stats"),
)


def test_with_keys_only_health_and_readiness_need_none(keyed: RunningGateway) -> None:
    assert {path: keyed.client.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)
    refused = {path: keyed.client.get(path).status_code for path in CLOSED}
    assert refused == dict.fromkeys(CLOSED, 401)
    for headers in ({"x-api-key": KEY}, bearer(KEY), bearer(ALICE)):
        allowed = {path: keyed.client.get(path, headers=headers).status_code for path in CLOSED}
        assert allowed == dict.fromkeys(CLOSED, 200)
        predicted = keyed.client.post("/predict", json={"data": [ROW]}, headers=headers)
        assert predicted.status_code == 200
    assert keyed.client.post("/variant/A/rollback", headers=bearer(KEY)).status_code == 401


def test_without_a_key_an_unknown_name_lists_no_models(keyed: RunningGateway) -> None:
    for path in ("/models/x/ready", "/models/x/health", "/v2/models/x/ready"):
        answer = keyed.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
        assert DEFAULT_MODEL not in answer.text
        assert DEFAULT_MODEL in keyed.client.get(path, headers={"x-api-key": KEY}).text
    assert "still_served" not in keyed.client.post("/variant/A/reload").json()


def test_pages_of_the_configured_origins_may_predict(gateway: RunningGateway) -> None:
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    for path in ("/predict", f"/v2/models/{DEFAULT_MODEL}/infer"):
        answer = gateway.client.options(path, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == APP
    answer = gateway.client.post("/predict", json={"data": [ROW]}, headers={"origin": APP})
    assert answer.headers["access-control-allow-origin"] == APP
    refused = gateway.client.post(
        "/predict", json={"data": [ROW]}, headers={"origin": "https://evil.example"}
    )
    assert refused.status_code == 403
    for path in ("/traffic", "/variant/A/reload", "/models"):
        answer = gateway.client.options(path, headers=asked)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers


def test_head_is_answered_wherever_get_is(gateway: RunningGateway) -> None:
    page = gateway.client.get("/openapi.json").json()
    paths = [path for path, operations in page["paths"].items() if "get" in operations]
    assert len(paths) > 20
    for path in [*paths, "/docs", "/openapi.json"]:
        real = path.format(model=DEFAULT_MODEL, version=1, alias="A")
        got, head = gateway.client.get(real), gateway.client.head(real)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers["content-type"] == got.headers["content-type"], path
    assert gateway.client.head("/predict").status_code == 405


def test_long_names_are_cut_and_odd_ones_are_answered(gateway: RunningGateway) -> None:
    for body in (b'{"\\ud800": NaN}', b'{"instances": [{"\\udfff": NaN}]}'):
        answer = gateway.client.post("/predict", content=body)
        assert answer.status_code in {400, 422}, answer.text
    answer = gateway.client.post("/predict", content=json.dumps({"x" * 500_000: 1}))
    assert answer.status_code == 422
    assert len(answer.content) < 10_000
    assert gateway.client.get("/models/" + "x" * 10_000).status_code == 404
    for line in gateway.process.log.read_text().splitlines():
        json.loads(line)


def test_curl_is_served_as_it_comes(gateway: RunningGateway, tmp_path: Path) -> None:
    body = json.dumps({"data": [ROW]})

    def curl(*options: str) -> Any:
        command = ["curl", "-sS", "--fail", "--noproxy", "*", "--compressed", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    json_body = ("-H", "content-type: application/json", "-d")
    assert curl(*json_body, body, f"{gateway.url}/predict")["version"] == 1
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"data": [ROW] * 64}) + " " * 500_000)
    expecting = (*json_body, f"@{large}", "-H", "Expect: 100-continue")
    assert len(curl(*expecting, f"{gateway.url}/predict")["predictions"]) == 64
    assert curl(f"{gateway.url}/models")["effective"]["A"]["version"] == 1
    assert curl(f"{gateway.url}/v2/health/live") == {"live": True}
    assert curl(f"{gateway.url}/v2/health/ready") == {"ready": True}
    assert curl(f"{gateway.url}/v2/models/{DEFAULT_MODEL}/ready") == {"ready": True}
