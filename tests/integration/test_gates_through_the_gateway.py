"""What is asked of production after the switch fits what the gateway takes, and leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from platform_assets.resources.gateway import GatewayResource
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.full_platform import TOKEN, Platform
from tests.support.gateway_harness import RunningGateway, run_gateway

KEY = "a-key-of-some-client"


@pytest.fixture(scope="module")
def narrow(
    shared_platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway of the promoted version that takes few rows, small bodies, and keys only."""
    if not shared_platform.settled():
        shared_platform.promote()
    home: Path = tmp_path_factory.mktemp("narrow")
    env = {
        "GATEWAY_CONTROL_TOKEN": TOKEN,
        "GATEWAY_API_KEYS": KEY,
        "GATEWAY_MAX_ROWS": "5",
        "GATEWAY_MAX_BODY_BYTES": "1024",
        "GATEWAY_SAMPLE_DIR": str(home / "samples"),
        "GATEWAY_SAMPLE_FRACTION": "1",
    }
    with run_gateway(home, shared_platform.triton.http_url, env=env) as gateway:
        gateway.client.headers["authorization"] = f"Bearer {TOKEN}"
        version = shared_platform.production()
        run_id = shared_platform.resources["mlflow"].version(DEFAULT_MODEL, version).run_id
        body = {"version": version, "run_id": run_id}
        answer = gateway.client.post("/variant/A/reload", json=body)
        assert answer.status_code == 200, answer.text
        yield gateway


def test_parity_is_asked_within_the_gateways_limits_and_without_a_clients_key(
    shared_platform: Platform, narrow: RunningGateway
) -> None:
    resource = GatewayResource(urls=narrow.url, control_token=TOKEN)
    check = shared_platform.check("gateway_reload", "predict_parity", gateway=resource)
    assert check.passed, check.description
    assert int(str(check.metadata["rows"].value)) > 5
    assert narrow.models()["replica"]["traffic"] == []
    assert narrow.metric("gateway_sample_rows_total", outcome="written") == 0


def test_a_client_without_a_key_is_refused(narrow: RunningGateway) -> None:
    bare = {"authorization": ""}
    answer = narrow.client.post("/predict", json={"data": [[1, 2, 3, 4]]}, headers=bare)
    assert answer.status_code == 401
