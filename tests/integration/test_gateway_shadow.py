"""`GET /shadow` on a real Triton: what mirrored requests tell about B beside A."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway, serve_versions
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import run_triton, wait_until

TOKEN = "token-of-the-shadow-tests"


@pytest.fixture(scope="module")
def gateway_env() -> dict[str, str]:
    return {"GATEWAY_CONTROL_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    return {"A": 1, "B": 2}


@pytest.fixture
def gateway(fresh_gateway: RunningGateway) -> RunningGateway:
    """Everything is mirrored."""
    assert fresh_gateway.traffic("mirror", 100).status_code == 200
    return fresh_gateway


def shadow(gateway: RunningGateway) -> Any:
    return gateway.client.get("/shadow").json()


def compared(gateway: RunningGateway, requests: int) -> None:
    wait_until(lambda: shadow(gateway)["requests"] == requests, 10, f"{requests} compared")


def test_mirrored_answers_are_compared_row_by_row(gateway: RunningGateway) -> None:
    empty = shadow(gateway)
    assert (empty["requests"], empty["agreement"], empty["b"]["version"]) == (0, None, 2)
    for _ in range(10):
        assert gateway.predict(ROW, [1.0, 2.0, 3.0, 4.0]).json()["predictions"] == [1, 1]
    compared(gateway, 10)
    found = shadow(gateway)
    # The two versions label everything differently and give the same probabilities.
    assert (found["rows"], found["rows_agreed"]) == (20, 0)
    assert found["agreement"]["value"] == found["agreement"]["low"] == 0
    assert 0.1 < found["agreement"]["high"] < 0.2
    assert found["probability_difference"]["largest"] == 0
    delay = found["latency_difference_seconds"]
    # The bounds are those of the mean: with few values the upper one may pass the largest.
    assert delay["low"] < delay["value"] < delay["high"]
    assert delay["value"] <= delay["largest"] < 5
    median = found["latency_difference_median_seconds"]
    assert median["low"] is None or median["low"] <= delay["largest"]
    assert (found["a"]["run_id"], found["b"]["run_id"]) == ("run-1", "run-2")
    assert (found["failed"], found["dropped"]) == (0, 0)
    example = found["examples"][-1]
    assert (example["row"], example["prediction_a"], example["prediction_b"]) == (
        [1.0, 2.0, 3.0, 4.0],
        1,
        2,
    )
    versions = {"version_a": "1", "version_b": "2"}
    assert gateway.metric("gateway_shadow_rows_total", outcome="disagreed", **versions) == 20
    for name in ("probability_difference", "latency_difference_seconds"):
        count = gateway.metric(f"gateway_shadow_{name}_bucket", le="+Inf", **versions)
        assert count == (20 if name == "probability_difference" else 10)


def test_another_pairing_starts_anew(gateway: RunningGateway) -> None:
    gateway.predict()
    compared(gateway, 1)
    gateway.routed(1, alias="B")
    assert shadow(gateway)["requests"] == 0
    for _ in range(5):
        gateway.predict()
    compared(gateway, 5)
    found = shadow(gateway)
    assert (found["rows_agreed"], found["agreement"]["value"], found["examples"]) == (5, 1, [])
    assert gateway.metric("gateway_shadow_rows_total", version_b="2") == 0


def test_clients_rows_are_shown_to_operators_only(gateway: RunningGateway) -> None:
    gateway.predict()
    compared(gateway, 1)
    assert len(shadow(gateway)["examples"]) == 1
    assert not shadow(gateway)["examples_withheld"]
    gateway.client.headers.pop("authorization")
    stranger = shadow(gateway)
    assert (stranger["examples"], stranger["examples_withheld"]) == ([], True)
    assert stranger["rows"] == 1


def test_copies_that_b_cannot_answer_are_counted(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        gateway.routed(2, alias="B")
        gateway.traffic("mirror", 100)
        gateway.predict()
        compared(gateway, 1)
        serve_versions(triton, 1)
        for _ in range(20):
            assert gateway.predict().status_code == 200
        wait_until(
            lambda: shadow(gateway)["failed"] + shadow(gateway)["dropped"] == 20, 10, "all told"
        )
        assert shadow(gateway)["requests"] == 1
