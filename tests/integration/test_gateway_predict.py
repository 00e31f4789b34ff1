"""`POST /predict` as clients meet it, on a real Triton: answers, refusals, split and mirror."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import ROW, RunningGateway, run_gateway, serve_versions
from tests.support.onnx_models import model_bytes, telltale, write_entry
from tests.support.servers import RunningTriton, run_triton, wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def gateway_env() -> dict[str, str]:
    return {"GATEWAY_MAX_ROWS": "64", "GATEWAY_MAX_BODY_BYTES": "20000"}


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    return {"A": 1, "B": 2}


def in_share(client_id: str, percent: int) -> bool:
    """The documented rule, as a client would write it."""
    return int(sha256(client_id.encode()).hexdigest(), 16) % 100 < percent


def test_an_answer_names_what_made_it(gateway: RunningGateway) -> None:
    answer = gateway.predict([1, 2, 3, 4], [0.5, 0.25, 0, 9], client_id="c")
    assert answer.status_code == 200
    body = answer.json()
    assert body["predictions"] == [1, 1]
    assert [len(row) for row in body["probabilities"]] == [3, 3]
    assert body["probabilities"][0] == pytest.approx([0.0900306, 0.2447285, 0.665241], abs=1e-6)
    assert (body["model_name"], body["variant"]) == (DEFAULT_MODEL, "A")
    assert (body["version"], body["run_id"], body["fallback"]) == (1, "run-1", None)
    assert answer.headers["x-request-id"]


def test_a_request_id_is_kept_when_sane(gateway: RunningGateway) -> None:
    def given(value: str) -> str:
        headers = {"x-request-id": value}
        answer = gateway.client.post("/predict", json={"data": [ROW]}, headers=headers)
        found: str = answer.headers["x-request-id"]
        return found

    assert given("order-17") == "order-17"
    assert given('no "quotes"') != 'no "quotes"'


BAD = {
    "no JSON": (b"hello", 400, "malformed_body", None),
    "empty body": (b"", 400, "malformed_body", None),
    "cut off": (b'{"data":[[1,2,3,4]', 400, "malformed_body", None),
    "no UTF-8": (b'{"data":[[1,2,3,4]],"client_id":"\xff"}', 400, "malformed_body", None),
    # Refused at the first bracket that no row can hold, however many follow.
    "deep": (b'{"instances":[{"a":' + b"[" * 5000, 422, "wrong_type", "instances[0][...]"),
    "a list": (b"[[1,2,3,4]]", 422, "wrong_type", None),
    "null": (b"null", 422, "wrong_type", None),
    "no rows": (b"{}", 422, "missing_field", "data"),
    "both": (b'{"data":[[1,2,3,4]],"instances":[{}]}', 422, "missing_field", "data"),
    "unknown field": (b'{"data":[[1,2,3,4]],"dta":1}', 422, "unknown_field", "dta"),
    "empty": (b'{"data":[]}', 422, "empty", "data"),
    "empty row": (b'{"data":[[]]}', 422, "wrong_width", "data[0]"),
    "flat": (b'{"data":[1,2,3,4]}', 422, "wrong_type", "data[0]"),
    "too narrow": (b'{"data":[[1,2,3]]}', 422, "wrong_width", "data[0]"),
    "too wide": (b'{"data":[[1,2,3,4,5]]}', 422, "wrong_width", "data[0]"),
    "ragged": (b'{"data":[[1,2,3,4],[1,2]]}', 422, "wrong_width", "data[1]"),
    "too deep a row": (b'{"data":[[[1],2,3,4]]}', 422, "wrong_type", "data[0][0]"),
    "text": (b'{"data":[[1,2,3,4],[1,"2",3,4]]}', 422, "wrong_type", "data[1][1]"),
    "null number": (b'{"data":[[1,2,null,4]]}', 422, "missing_value", "data[0][2]"),
    "boolean": (b'{"data":[[1,2,3,true]]}', 422, "wrong_type", "data[0][3]"),
    "NaN": (b'{"data":[[1,2,3,4],[1,NaN,3,4]]}', 422, "missing_value", "data[1][1]"),
    "infinity": (b'{"data":[[1,2,-Infinity,4]]}', 422, "not_finite", "data[0][2]"),
    "beyond FP32": (b'{"data":[[1,2,3,1e39]]}', 422, "out_of_range", "data[0][3]"),
    "beyond FP64": (b'{"data":[[1,1e999,3,4]]}', 422, "out_of_range", "data[0][1]"),
    "long integer": (b'{"data":[[1' + b"0" * 400 + b",2,3,4]]}", 422, "out_of_range", "data[0][0]"),
    "client number": (b'{"data":[[1,2,3,4]],"client_id":7}', 422, "wrong_type", "client_id"),
    "client too long": (
        b'{"data":[[1,2,3,4]],"client_id":"' + b"x" * 257 + b'"}',
        422,
        "too_long",
        "client_id",
    ),
    "no instances": (b'{"instances":[]}', 422, "empty", "instances"),
    "missing feature": (
        b'{"instances":[{"features_0":1}]}',
        422,
        "missing_feature",
        "instances[0].features_1",
    ),
    "unknown feature": (
        b'{"instances":[{"features_0":1,"features_1":1,"features_2":1,"features_3":1,"x":1}]}',
        422,
        "unknown_feature",
        "instances[0].x",
    ),
    "bad instance": (
        b'{"instances":[{"features_0":1,"features_1":"1","features_2":1,"features_3":1}]}',
        422,
        "wrong_type",
        "instances[0].features_1",
    ),
    "too many rows": (
        json.dumps({"data": [[1, 2, 3, 4]] * 65}).encode(),
        413,
        "too_many_rows",
        "data",
    ),
    "too large": (b" " * 20001, 413, "body_too_large", None),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_place(gateway: RunningGateway, name: str) -> None:
    content, status, code, field = BAD[name]
    answer = gateway.client.post("/predict", content=content, headers=JSON)
    body = answer.json()
    assert (answer.status_code, body["code"], body.get("field")) == (status, code, field), body
    assert body["status"] == "error"
    assert body["request_id"] == answer.headers["x-request-id"]


def test_a_body_of_unknown_length_is_limited_too(gateway: RunningGateway) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 1000

    answer = gateway.client.post("/predict", content=chunks(), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_another_content_type_or_method_is_refused(gateway: RunningGateway) -> None:
    form = gateway.client.post("/predict", data={"data": "1"})
    assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")
    got = gateway.client.get("/predict")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    charset = {"content-type": "application/json; charset=utf-8"}
    good = gateway.client.post("/predict", content=json.dumps({"data": [ROW]}), headers=charset)
    assert good.status_code == 200
    assert gateway.client.get("/nothing").json()["code"] == "not_found"
    assert gateway.client.get("/traffic").status_code == 405


def test_refusals_are_counted_and_the_rest_is_not_disturbed(gateway: RunningGateway) -> None:
    before = gateway.metric("http_requests_total", path="/predict", status="422")
    gateway.predict([1, 2])
    after = gateway.metric("http_requests_total", path="/predict", status="422")
    assert after == before + 1
    assert gateway.predict().status_code == 200
    for name in ("process_resident_memory_bytes", "python_gc_collections_total"):
        assert gateway.metric(name) > 0
    assert gateway.metric("gateway_predictions_total", variant="A", version="1") > 0
    assert gateway.metric("gateway_ready") == 1


def test_concurrent_requests_get_their_own_answers(gateway: RunningGateway) -> None:
    rows = [[float(i), 0.0, float(-i), 1.0] for i in range(40)]
    alone = [gateway.predict(row).json()["probabilities"][0] for row in rows]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(gateway.predict, rows * 5))
    for i, answer in enumerate(together):
        assert answer.json()["probabilities"][0] == pytest.approx(alone[i % 40])


def test_a_split_follows_the_documented_rule(gateway: RunningGateway) -> None:
    assert gateway.traffic("split", 30).status_code == 200
    try:
        for client_id in [f"client-{i}" for i in range(100)]:
            answer = gateway.predict(client_id=client_id).json()
            wanted = ("B", 2) if in_share(client_id, 30) else ("A", 1)
            assert (answer["variant"], answer["version"]) == wanted
            assert answer["predictions"] == [wanted[1]]
        assert gateway.predict().json()["variant"] == "A"
    finally:
        gateway.traffic("off", 0)


def test_a_mirrored_request_is_repeated_compared_and_not_seen_by_the_client(
    gateway: RunningGateway,
) -> None:
    def copies() -> float:
        return gateway.metric("gateway_mirrored_total", outcome="disagreed")

    before = copies()
    assert gateway.traffic("mirror", 100).status_code == 200
    try:
        for _ in range(20):
            answer = gateway.predict().json()
            assert (answer["variant"], answer["predictions"]) == ("A", [1])
        # The two versions label everything differently.
        wait_until(lambda: copies() == before + 20, 10, "all copies compared")
    finally:
        gateway.traffic("off", 0)


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"strategy": "split", "percent": 101}, "out_of_range"),
        ({"strategy": "split", "percent": -1}, "out_of_range"),
        ({"strategy": "split", "percent": 0.005}, "out_of_range"),
        ({"strategy": "half"}, "wrong_type"),
        ({"percent": 5}, "missing_field"),
    ],
)
def test_an_impossible_policy_is_refused(
    gateway: RunningGateway, policy: dict[str, Any], code: str
) -> None:
    answer = gateway.client.put("/traffic", json=policy)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_answers_for_b_and_says_so_when_b_cannot(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        no_b = gateway.traffic("split", 50)
        assert (no_b.status_code, no_b.json()["code"]) == (409, "variant_without_version")
        gateway.routed(2, alias="B")
        gateway.traffic("split", 100)
        assert gateway.predict(client_id="c").json()["variant"] == "B"
        serve_versions(triton, 1)
        for count in (1, 2):
            answer = gateway.predict(client_id="c").json()
            assert (answer["variant"], answer["version"]) == ("A", 1)
            assert "variant B could not answer" in answer["fallback"]
            assert gateway.metric("gateway_fallbacks_total") == count
        assert gateway.ready()
        serve_versions(triton, 1, 2)
        wait_until(
            lambda: gateway.predict(client_id="c").json()["variant"] == "B", 10, "B answers again"
        )
        # A mirror to a B that is gone costs the client nothing and is counted.
        gateway.traffic("mirror", 100)
        serve_versions(triton, 1)
        wait_until(lambda: not gateway.models()["effective"]["B"]["ready"], 5, "B is gone")
        assert gateway.predict().status_code == 200
        assert gateway.metric("gateway_mirrored_total", outcome="dropped") >= 1


def picky_model() -> bytes:
    """`index` INT64 [N, 1] -> `label` INT64 [N, 1]; an index over 2 fails the whole inference."""
    from onnx import TensorProto, helper

    shape = (TensorProto.INT64, [None, 1])
    table = helper.make_tensor("table", TensorProto.INT64, [3], [10, 20, 30])
    nodes = [helper.make_node("Gather", ["table", "index"], ["label"])]
    return model_bytes(
        nodes, inputs={"index": shape}, outputs={"label": shape}, initializers=[table]
    )


def test_a_bad_row_fails_its_own_request_only(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, "picky", {1: picky_model()})
    # One inference at a time makes the requests that come meanwhile share the next one.
    env = {"GATEWAY_MODEL_NAME": "picky", "GATEWAY_MAX_IN_FLIGHT": "1"}
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
        ThreadPoolExecutor(24) as pool,
    ):
        gateway.routed(1)
        indices = [7 if i % 6 == 0 else i % 3 for i in range(240)]
        answers = list(pool.map(lambda index: gateway.predict([index]), indices))
        for index, answer in zip(indices, answers, strict=True):
            if index == 7:
                assert answer.status_code in {422, 502}, answer.text
            else:
                assert answer.status_code == 200, answer.text
                assert answer.json()["predictions"] == [[10], [20], [30]][index : index + 1] or (
                    answer.json()["predictions"] == [10 * (index + 1)]
                )
                assert answer.json()["probabilities"] is None
        refused = gateway.predict([1.5])
        assert (refused.status_code, refused.json()["field"]) == (422, "data[0][0]")
        huge = gateway.predict([2**63])
        assert (huge.status_code, huge.json()["code"]) == (422, "out_of_range")


def test_control_needs_the_token_when_one_is_set(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    env = {"GATEWAY_CONTROL_TOKEN": "open-sesame-0123456789"}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        assert gateway.reload(version=1, run_id="run-1").status_code == 401
        wrong = gateway.client.post("/variant/A/reload", headers={"authorization": "Bearer closed"})
        assert wrong.status_code == 401
        assert wrong.headers["www-authenticate"] == "Bearer"
        gateway.client.headers["authorization"] = "Bearer open-sesame-0123456789"
        gateway.routed(1)
        del gateway.client.headers["authorization"]
        assert gateway.traffic("off", 0).status_code == 401
        assert gateway.predict().status_code == 200
        assert "open-sesame-0123456789" not in gateway.process.log_tail(10_000)


def test_a_page_of_another_origin_may_change_nothing(gateway: RunningGateway) -> None:
    refused = gateway.client.post("/variant/A/reload", headers={"origin": "https://example.org"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert gateway.reload().status_code == 200


def test_sigterm_is_a_lame_duck_and_then_an_orderly_end(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    env = {"GATEWAY_DRAIN_SECONDS": "2"}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.routed(1)
        gateway.process.signal(signal.SIGTERM)
        wait_until(lambda: not gateway.ready(), 1, "not ready")
        reasons = gateway.client.get("/ready").json()["reasons"]
        assert reasons == ["the gateway is shutting down"]
        answer = gateway.predict()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        gateway.process.wait(10)
        with pytest.raises(httpx.ConnectError):
            gateway.predict()
