"""Concurrent inferences of the protocol: what shares a call to Triton, and what each gets of it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, Signature, Strategy, Traffic
from serving_gateway.errors import (
    BadUpstreamAnswer,
    GatewayError,
    InferenceRefused,
    InvalidInput,
    NotFound,
    VariantUnavailable,
)
from tests.support.fake_triton import FakeTritonPlane, Outcome


@pytest.fixture
async def plane(tmp_path: Path) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path, max_in_flight=1) as one:
        one.route(A=1)
        yield one


def request(*firsts: float, **members: Any) -> bytes:
    data = [value for first in firsts for value in (first, 0)]
    tensor = {"name": "x", "shape": [len(firsts), 2], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor], **members}).encode()


def binary(*firsts: float, **members: Any) -> tuple[bytes, int]:
    data = struct.pack(f"<{2 * len(firsts)}f", *[x for first in firsts for x in (first, 0)])
    tensor = {
        "name": "x",
        "shape": [len(firsts), 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], **members}).encode()
    return head + data, len(head)


async def outputs(outcome: Outcome) -> dict[str, Any]:
    response, variant, version = await outcome
    assert (variant, version, response.header_length) == ("A", 1, None)
    head = json.loads(response.body)
    assert (head["model_name"], head["model_version"]) == ("m", "1")
    return {one["name"]: one for one in head["outputs"]} | {"id": head.get("id")}


async def test_client_id_of_the_parameters_has_a_longest_length(plane: FakeTritonPlane) -> None:
    assert await plane.infer(request(1, parameters={"client_id": "x" * 256}))
    with pytest.raises(InvalidInput, match="257 characters; at most 256") as refused:
        await plane.infer(request(1, parameters={"client_id": "x" * 257}))
    assert (refused.value.field, refused.value.code) == ("parameters.client_id", "too_long")


async def test_client_id_of_the_header_has_a_longest_length(plane: FakeTritonPlane) -> None:
    outcome = Outcome()
    plane.open_inference.submit("m", None, "x" * 257, request(1), None, outcome)
    with pytest.raises(InvalidInput, match="257 characters; at most 256") as refused:
        await outcome
    assert (refused.value.field, refused.value.code) == ("x-client-id", "too_long")


async def test_binary_and_json_requests_share_an_inference_and_get_their_own(
    plane: FakeTritonPlane,
) -> None:
    first = plane.infer(request(1))
    outcomes = [
        plane.infer(request(2, 3, id="two")),
        plane.infer(*binary(4, id="three")),
        plane.infer(request(5, outputs=[{"name": "label"}])),
        plane.infer(request(6, parameters={"binary_data_output": True, "client_id": "c"})),
    ]
    await first
    two = await outputs(outcomes[0])
    assert (two["id"], two["label"]["data"], two["label"]["shape"]) == ("two", [1, 1], [2])
    assert two["probabilities"]["data"] == [2, 5, 3, 5]
    assert two["text"]["data"] == ["2.0", "3.0"]
    three = await outputs(outcomes[1])
    assert (three["id"], three["probabilities"]["data"]) == ("three", [4, 5])
    assert (await outputs(outcomes[2])).keys() == {"label", "id"}
    response, _, _ = await outcomes[3]
    head = json.loads(response.body[: response.header_length])
    sizes = [one["parameters"]["binary_data_size"] for one in head["outputs"]]
    tensors = response.body[response.header_length :]
    assert sizes == [8, 8, 4 + len("6.0")]
    assert tensors == struct.pack("<q2f", 1, 6, 5) + b"\3\0\0\0" + b"6.0"
    assert [one.rows for one in plane.triton.model.seen] == [1, 5]


async def test_requests_with_parameters_of_triton_go_alone(plane: FakeTritonPlane) -> None:
    outcomes = [
        plane.infer(request(1)),
        plane.infer(request(2)),
        plane.infer(request(3, parameters={"sequence_id": 7})),
        plane.infer(request(4)),
    ]
    for outcome in outcomes:
        await outcome
    assert [one.rows for one in plane.triton.model.seen] == [1] * 4
    assert plane.triton.repeatable == [True, True, False, True]
    assert plane.triton.model.seen[2].head["parameters"]["sequence_id"] == 7


async def test_texts_share_an_inference(tmp_path: Path) -> None:
    texts = Signature((Feature("t", DType.BYTES), Feature("u", DType.BYTES)), packed_input=None)

    def asked(*words: str) -> bytes:
        tensors = [
            {"name": name, "shape": [len(words), 1], "datatype": "BYTES", "data": [*words]}
            for name in "tu"
        ]
        return json.dumps({"inputs": tensors}).encode()

    with FakeTritonPlane(tmp_path, max_in_flight=1) as plane:
        plane.route(signatures={"A": texts}, A=1)
        outcomes = [
            plane.infer(asked("a")),
            plane.infer(asked("ä", "ccc")),
            plane.infer(asked("d")),
        ]
        echoed = [(await outputs(outcome))["text"]["data"] for outcome in outcomes]
        assert echoed == [["a"], ["ä", "ccc"], ["d"]]
        assert [one.rows for one in plane.triton.model.seen] == [1, 3]


@pytest.mark.parametrize("shape", [[], [1, 4]])
async def test_outputs_that_are_not_by_rows_are_asked_for_again_alone(
    plane: FakeTritonPlane, shape: list[int]
) -> None:
    plane.triton.model.extra["state"] = ("FP32", shape, bytes(4 * math.prod(shape)))
    outcomes = [plane.infer(request(number)) for number in range(4)]
    for number, outcome in enumerate(outcomes):
        found = await outputs(outcome)
        assert found["probabilities"]["data"] == [number, 1]
        assert found["state"]["shape"] == shape
    assert [one.rows for one in plane.triton.model.seen] == [1, 3, 1, 1, 1]
    plane.triton.model.seen.clear()
    for outcome in [plane.infer(request(number)) for number in range(3)]:
        await outcome
    assert [one.rows for one in plane.triton.model.seen] == [1, 1, 1], "known from now on"


async def test_output_that_does_not_exist_fails_only_its_own_request(
    plane: FakeTritonPlane,
) -> None:
    outcomes = [plane.infer(request(number)) for number in range(3)]
    wrong = plane.infer(request(9, outputs=[{"name": "other"}]))
    for outcome in outcomes:
        await outcome
    with pytest.raises(InvalidInput) as caught:
        await wrong
    assert caught.value.field == "outputs[0].name"


async def test_nan_fails_only_its_own_request_and_only_in_json(plane: FakeTritonPlane) -> None:
    plane.triton.model.broken.add(7)
    outcomes = {number: plane.infer(request(number)) for number in (1, 2, 7, 3)}
    as_binary = plane.infer(*binary(7, parameters={"binary_data_output": True}))
    for number, outcome in outcomes.items():
        if number == 7:
            with pytest.raises(BadUpstreamAnswer) as caught:
                await outcome
            assert caught.value.code == "not_finite_output"
        else:
            assert (await outputs(outcome))["probabilities"]["data"][0] == number
    response, _, _ = await as_binary
    assert math.isnan(struct.unpack_from("<f", response.body, response.header_length + 8)[0])


async def test_row_that_the_model_refuses_fails_only_its_own_request(
    plane: FakeTritonPlane,
) -> None:
    plane.triton.model.refused.add(7)
    outcomes = {number: plane.infer(request(number)) for number in range(20)}
    for number, outcome in outcomes.items():
        if number == 7:
            with pytest.raises(InferenceRefused):
                await outcome
        else:
            await outcome


async def test_predictions_and_inferences_of_a_version_share_its_limits(
    plane: FakeTritonPlane,
) -> None:
    plane.triton.holds.add(1)
    outcomes = [
        plane.infer(request(1)),
        plane.predict(b'{"data":[[2,0]]}'),
        plane.infer(request(3)),
    ]
    for number in range(3):
        assert len(plane.triton.calls) == number + 1, "one is under way at a time"
        plane.triton.calls[-1].answer()
    for outcome in outcomes:
        await outcome


async def test_split_sends_clients_of_the_protocol_to_b_and_back_when_b_fails(
    plane: FakeTritonPlane,
) -> None:
    plane.route(Traffic(Strategy.SPLIT, 100), A=1, B=2)
    body = request(1, parameters={"client_id": "c"})
    assert (await plane.infer(body))[1:] == ("B", 2)
    assert (await plane.infer(request(1)))[1:] == ("A", 1), "no client id"
    plane.triton.errors[2] = VariantUnavailable("gone")
    assert (await plane.infer(body))[1:] == ("A", 1)
    with pytest.raises(VariantUnavailable):
        await plane.infer(body, version=2)
    with pytest.raises(NotFound):
        await plane.infer(body, version=3)


async def test_large_request_is_answered_and_refused_like_a_small_one(
    plane: FakeTritonPlane,
) -> None:
    padding = {"more": "x" * 70_000}
    assert (await outputs(plane.infer(request(1, 2, **padding))))["label"]["data"] == [1, 1]
    for wrong, code in (
        (request(1, 2, **padding).replace(b"FP32", b"FP64"), "wrong_type"),
        (request(1, 2, **padding)[:-1], "malformed_body"),
        (request(1, 2, **padding).replace(b"1, 0", b"1, 1e300"), "out_of_range"),
    ):
        with pytest.raises(GatewayError) as caught:
            await plane.infer(wrong)
        assert caught.value.code == code


async def test_rows_are_counted_and_not_requests(plane: FakeTritonPlane) -> None:
    await plane.infer(request(1, 2, 3))
    await plane.infer(*binary(4, 5))
    stats = plane.metrics.variants["A", 1]
    assert (stats.answered, stats.rows) == (2, 5)
