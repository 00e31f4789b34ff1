"""Missing values and mixed types on a real Triton: by rows, by names and by `/v2`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton_http

from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.replay import asking
from platform_assets.serving.replay.asking import answer_in_turn
from platform_assets.serving.replay.rows import tensor_frame
from serving_gateway.contract import (
    DEFAULT_MODEL,
    DType,
    Feature,
    Mode,
    RoutingRecord,
    Signature,
    Slot,
    Strategy,
    Traffic,
)
from serving_gateway.replication.file_store import FileStore
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.onnx_models import missing_values, write_entry
from tests.support.servers import RunningTriton, run_triton

FEATURES = (
    Feature("x", DType.FP32, nullable=True),
    Feature("n", DType.INT64, nullable=True),
    Feature("b", DType.BOOL, nullable=True),
    Feature("t", DType.BYTES, nullable=True),
)
NAMES = ("x", "n", "b", "t")


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A Triton whose versions tell what is missing."""
    home = tmp_path_factory.mktemp("missing-triton")
    model = missing_values()
    write_entry(home / "repository", DEFAULT_MODEL, {1: model, 2: model}, max_batch_size=4)
    with run_triton(home / "repository", home) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, triton: RunningTriton
) -> Iterator[RunningGateway]:
    """A gateway whose A tells what is missing, and whose B repeats the text; half go to B."""
    home = tmp_path_factory.mktemp("missing")
    slots = {
        alias: Slot(
            version,
            "run",
            "registry",
            Mode.SSOT,
            Signature(
                features,
                packed_input=None,
                label_output=output,
                probabilities_output=None,
                max_batch_rows=4,
            ),
        )
        for alias, version, features, output in (
            ("A", 1, FEATURES, "missing"),
            ("B", 2, (*FEATURES[:3], Feature("t", DType.BYTES)), "echo"),
        )
    }
    # A split that a client could not turn on: B does not take what may be missing for A.
    record = RoutingRecord(DEFAULT_MODEL, 1, slots, Traffic(Strategy.SPLIT, 100))
    store = FileStore(home / "gateway")
    asyncio.run(store.replace(RoutingRecord(DEFAULT_MODEL), record))
    with run_gateway(home, triton.http_url) as running:
        running.wait_ready()
        yield running


def predictions(gateway: RunningGateway, **body: Any) -> Any:
    answer = gateway.client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def refusal(gateway: RunningGateway, path: str, body: Any) -> tuple[int, str, str | None]:
    answer = gateway.client.post(path, json=body)
    found = answer.json()
    return answer.status_code, found["code"], found.get("field")


ROWS: list[list[Any]] = [
    [1.5, 2, True, "ä"],
    [None, 2, False, ""],
    [1, None, None, None],
    [None, None, None, "x"],
]
MISSING = [0, 1, 110, 111]


def test_null_reaches_the_model_as_missing(gateway: RunningGateway) -> None:
    assert predictions(gateway, data=ROWS) == MISSING
    named = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    assert predictions(gateway, instances=named) == MISSING


def test_text_comes_back_as_it_went_and_a_answers_where_it_is_missing(
    gateway: RunningGateway,
) -> None:
    body: dict[str, Any] = {"client_id": "anybody"}
    body["data"] = [[None, None, None, "Köln, 10 km"]]
    assert predictions(gateway, **body) == ["Köln, 10 km"]
    for empty in ("", None):
        body = {"client_id": "anybody", "data": [[1, 1, True, empty]]}
        answer = gateway.client.post("/predict", json=body).json()
        assert (answer["variant"], answer["version"]) == ("A", 1)
        assert "data[0][3]" in answer["fallback"]


def test_a_split_to_a_variant_that_refuses_null_is_refused(gateway: RunningGateway) -> None:
    answer = gateway.traffic("split", 50)
    assert (answer.status_code, answer.json()["code"]) == (409, "incompatible_variants")
    assert "t may be null for A and not for B" in answer.json()["error"]


def test_more_rows_than_the_version_takes_at_once_are_refused(gateway: RunningGateway) -> None:
    refused = refusal(gateway, "/predict", {"data": ROWS + ROWS[:1]})
    assert refused == (413, "too_many_rows", "data")


def tensors() -> list[dict[str, Any]]:
    columns = list(zip(*ROWS, strict=True))
    kinds = zip(NAMES, ("FP32", "FP64", "FP32", "BYTES"), columns, strict=True)
    return [
        {
            "name": name,
            "datatype": datatype,
            "shape": [len(ROWS), 1],
            "data": [float(one) if isinstance(one, bool) else one for one in column],
        }
        for name, datatype, column in kinds
    ]


def test_null_in_the_open_inference_protocol_is_missing_too(gateway: RunningGateway) -> None:
    path = f"/v2/models/{DEFAULT_MODEL}/infer"
    answer = gateway.client.post(path, json={"inputs": tensors()})
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs == {"missing": MISSING, "echo": ["ä", "", "", "x"]}
    named = f"/v2/models/{DEFAULT_MODEL}/versions/2/infer"
    refused = refusal(gateway, named, {"inputs": tensors()})
    assert refused == (422, "missing_value", "inputs[3].data[1]")


@pytest.mark.parametrize("binary", [True, False])
def test_a_client_of_triton_sends_missing_values_by_the_types_of_the_metadata(
    gateway: RunningGateway, binary: bool
) -> None:
    types = {"FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}
    with triton_http.InferenceServerClient(gateway.url.removeprefix("http://")) as client:
        described = client.get_model_metadata(DEFAULT_MODEL)["inputs"]
        assert [one["datatype"] for one in described] == ["FP32", "FP64", "FP32", "BYTES"]
        inputs = []
        for one, column in zip(described, zip(*ROWS, strict=True), strict=True):
            empty = "" if one["datatype"] == "BYTES" else np.nan
            filled = [[empty if value is None else value] for value in column]
            tensor = triton_http.InferInput(one["name"], [len(ROWS), 1], one["datatype"])
            values = np.array(filled, dtype=types[one["datatype"]])
            tensor.set_data_from_numpy(values, binary_data=binary)
            inputs.append(tensor)
        found = client.infer(DEFAULT_MODEL, inputs)
    assert found.as_numpy("missing").ravel().tolist() == MISSING
    assert found.as_numpy("echo").ravel().tolist() == ["ä".encode(), b"", b"", b"x"]


def test_logged_rows_with_missing_values_are_replayed_in_batches_that_triton_takes(
    triton: RunningTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SINGLES", 3)
    signature = Signature(
        FEATURES, None, label_output="missing", probabilities_output=None, max_batch_rows=4
    )
    log = pa.table(
        {
            "x": pa.array([1.5, None] * 5, pa.float32()),
            "n": pa.array([None, 2] * 5, pa.int64()),
            "b": pa.array([True] * 9 + [None], pa.bool_()),
            "t": pa.array(["süd", None] * 5, pa.string()),
        }
    )
    rows = tensor_frame(signature, log)
    versions = [(RegisteredVersion(DEFAULT_MODEL, one, "", "", signature), rows) for one in (2, 1)]
    [endpoint] = TritonResource(url=triton.http_url, control_key="").endpoints()
    asked, answers = answer_in_turn(endpoint, versions)
    assert asked == 10
    for one in answers:
        assert not one.failures
        assert one.labels.tolist() == [10, 1] * 4 + [10, 101]
        assert len(one.seconds) == 3
