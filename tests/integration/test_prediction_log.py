"""The prediction log of a running gateway, beside a real Triton."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serving_gateway.contract import (
    DEFAULT_MODEL,
    LOG_KEY_FILE,
    PLATFORM_HEADER,
    client_hash,
)
from tests.support.gateway_harness import ROW, run_gateway
from tests.support.servers import RunningTriton, wait_until

TOKEN = "token-of-the-platform"
NAMES = [f"features_{place}" for place in range(4)]


def test_answered_predictions_lie_in_files_and_refused_ones_do_not(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    directory = tmp_path / "samples"
    env = {"GATEWAY_SAMPLE_DIR": str(directory), "GATEWAY_SAMPLE_FRACTION": "1"}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.routed(1)
        gateway.routed(2, alias="B")
        assert gateway.predict([1, 2, 3, 4], ROW).status_code == 200
        assert gateway.predict([1, 2, 3]).status_code == 422
        named = [dict(zip(NAMES, ROW, strict=True))]
        assert gateway.traffic("split", 100).status_code == 200
        answer = gateway.client.post("/predict", json={"instances": named, "client_id": "c"})
        assert answer.json()["variant"] == "B"
        assert gateway.traffic("mirror", 100).status_code == 200
        mirrored = gateway.predict([4, 3, 2, 1], client_id="ada")
        tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": ROW}
        protocol = gateway.client.post(
            f"/v2/models/{DEFAULT_MODEL}/infer",
            json={"inputs": [tensor]},
            headers={"x-client-id": "ada"},
        )
        assert gateway.metric("gateway_sample_rows_total", outcome="dropped") == 0
        assert not directory.exists()
    # What waits is written when the gateway ends.
    files = [*directory.glob(f"{DEFAULT_MODEL}/*/*.parquet")]
    found = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
    kept = sorted(found.to_pylist(), key=lambda row: row["sample_time"])
    row_as_sent = [pa.scalar(value, pa.float32()).as_py() for value in ROW]
    assert [[row[name] for name in NAMES] for row in kept] == [
        *([1, 2, 3, 4], row_as_sent, row_as_sent, [4, 3, 2, 1], row_as_sent)
    ]
    routed = [
        (row["sample_variant"], row["sample_version"], row["sample_prediction"]) for row in kept
    ]
    assert routed == [*[("A", 1, "1")] * 2, ("B", 2, "2"), *[("A", 1, "1")] * 2]
    b = [(row["sample_b_version"], row["sample_b_prediction"]) for row in kept]
    assert b == [(None, None)] * 3 + [(2, "2"), (None, None)], "of /v2 nothing is mirrored"
    ids = [row["sample_id"] for row in kept]
    assert ids[0] == ids[1], "of one request"
    given = [answer.json()["prediction_id"], mirrored.json()["prediction_id"]]
    assert ids[2:] == [*given, protocol.headers["x-prediction-id"]]
    key = (tmp_path / "gateway" / LOG_KEY_FILE).read_bytes().strip()
    assert [row["sample_client"] for row in kept[3:]] == [client_hash("ada", key)] * 2
    assert {row["sample_generation"] for row in kept} == {2, 3, 4}
    assert all(0 < row["sample_latency"] < 20 for row in kept)
    assert kept[2]["sample_score"] == max(answer.json()["probabilities"][0])


def test_requests_of_the_platform_itself_are_no_traffic(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    directory = tmp_path / "samples"
    env = {
        "GATEWAY_SAMPLE_DIR": str(directory),
        "GATEWAY_SAMPLE_FRACTION": "1",
        "GATEWAY_CONTROL_TOKEN": TOKEN,
    }
    marked = {PLATFORM_HEADER: "1", "authorization": f"Bearer {TOKEN}"}
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": ROW}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.client.headers["authorization"] = f"Bearer {TOKEN}"
        gateway.routed(1)
        gateway.routed(2, alias="B")
        before = gateway.client.get("/metrics").text
        for policy in ("mirror", "split"):
            assert gateway.traffic(policy, 100).status_code == 200
            for path, body in (
                ("/predict", {"data": [ROW], "client_id": "c"}),
                (f"/v2/models/{DEFAULT_MODEL}/infer", {"inputs": [tensor]}),
            ):
                # A page's request takes the other way through the gateway.
                for more in ({}, {"origin": gateway.url}):
                    answer = gateway.client.post(path, json=body, headers=marked | more)
                    assert answer.status_code == 200, answer.text
                    served = answer.headers.get("x-serving-version") or answer.json()["version"]
                    assert int(served) == 1, "A answers, whatever the split"
        status = gateway.models()
        assert status["replica"]["traffic"] == []
        assert gateway.client.get("/shadow").json()["rows"] == 0
        assert traffic_of(gateway.client.get("/metrics").text) == traffic_of(before)
        # Without a control token the mark is refused, not ignored.
        del gateway.client.headers["authorization"]
        refused = gateway.client.post(
            "/predict", json={"data": [ROW]}, headers={PLATFORM_HEADER: "1"}
        )
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert "is not counted as traffic" in refused.json()["error"]
    assert not directory.exists()


def traffic_of(metrics: str) -> list[str]:
    """The lines that count what clients asked."""
    counted = ("predictions_total", "rows_total", "feature_source", "mirrored", "_seconds_count")
    lines = [line for line in metrics.splitlines() if not line.endswith(" 0") and line[0] != "#"]
    inferences = [line for line in lines if line.startswith("http_requests_total")]
    inferences = [line for line in inferences if "/predict" in line or "/infer" in line]
    return [line for line in lines if any(name in line for name in counted)] + inferences


def test_a_disk_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    env = {
        "GATEWAY_SAMPLE_DIR": str(blocked),
        "GATEWAY_SAMPLE_FRACTION": "1",
        "GATEWAY_SAMPLE_SECONDS": "0.01",
    }
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.routed(1)
        assert gateway.predict().status_code == 200
        wait_until(
            lambda: gateway.metric("gateway_sample_rows_total", outcome="failed") == 1,
            10,
            "the loss to be counted",
        )
        assert gateway.predict().status_code == 200
        assert gateway.ready()
        assert "rows of the prediction log are lost" in gateway.process.log.read_text()
