"""Inference responses of Triton: by which version, complete, readable, cut for each request."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import BadUpstreamAnswer
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.tensors import pack
from serving_gateway.inference.wire import InferenceOutputs, RequestBuilder, ResponseReader
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.protocol import error_text

SIGNATURE = Signature(
    tuple(Feature(name, DType.FP32) for name in "ab"), packed_input="x", classes=(7, 8)
)
CODEC = Codec(SIGNATURE)


def response(*tensors: tuple[str, str, list[int], bytes], version: str = "1") -> TritonResponse:
    """A response as Triton writes it: JSON first, then each tensor's bytes."""
    outputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": shape,
            "parameters": {"binary_data_size": len(data)},
        }
        for name, datatype, shape, data in tensors
    ]
    head = json.dumps({"model_name": "m", "model_version": version, "outputs": outputs}).encode()
    return TritonResponse(200, len(head), head + b"".join(data for *_, data in tensors))


def read(
    answer: TritonResponse, rows: int = 2, version: int = 1, codec: Codec = CODEC
) -> InferenceOutputs:
    return ResponseReader(version, codec).read(answer, rows)


LABELS = ("label", "INT64", [2], struct.pack("<2q", 7, 8))
SCORES = ("probabilities", "FP32", [2, 2], struct.pack("<4f", 1, 0, 0.5, 0.5))


@pytest.mark.parametrize("size", [None, "head"])
def test_response_of_another_version_is_dropped(size: str | None) -> None:
    answer = response(version="2")
    if size is None:
        answer = TritonResponse(200, None, answer.body)
    assert read(answer, version=2).part(0, 2) == []
    with pytest.raises(BadUpstreamAnswer, match="version 2 when asked for version 1") as caught:
        read(answer, version=1)
    assert caught.value.code == "version_mismatch"


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"{}", b'{"outputs":[]}', b'{"model_version":1,"outputs":[]}', b'{"\xff":1}'],
)
def test_unreadable_response_is_dropped(body: bytes) -> None:
    with pytest.raises(BadUpstreamAnswer, match="unreadable"):
        read(TritonResponse(200, None, body))


def test_response_that_ends_too_early_is_dropped() -> None:
    answer = response(LABELS, SCORES)
    with pytest.raises(BadUpstreamAnswer, match="ends within"):
        read(TritonResponse(200, answer.inference_header_length, answer.body[:-1]))


def test_reason_of_a_refusal_is_found_in_any_encoding() -> None:
    assert error_text(b'{"error":"too wide"}') == "too wide"
    assert error_text(b"<html>") == "<html>"
    assert error_text(b"") == "no reason given"
    assert error_text(b"\xff\xfe") == "\N{REPLACEMENT CHARACTER}" * 2


@pytest.mark.parametrize("order", [(LABELS, SCORES), (SCORES, LABELS)])
def test_prediction_is_read_alike_beside_any_other_outputs(order: Any) -> None:
    other = ("embedding", "FP32", [2, 3], bytes(24))
    for tensors in (order, (*order, other), (other, *order)):
        output = read(response(*tensors)).model_output()
        assert output.predictions == [7, 8]
        assert output.probabilities == [[1, 0], [0.5, 0.5]]
        assert output.is_finite


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_labels_come_with_or_without_a_column(shape: list[int]) -> None:
    output = read(
        response(("label", "INT64", shape, struct.pack("<2q", 7, 8)), SCORES)
    ).model_output()
    assert output.predictions == [7, 8]
    assert output.part(1, 2).predictions == [8]
    assert output.part(1, 2).probabilities == [[0.5, 0.5]]


def test_text_and_boolean_labels_and_regressions_are_understood() -> None:
    text = Codec(Signature(SIGNATURE.features, "x", probabilities_output=None))
    two = b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa4"
    texts = response(("label", "BYTES", [2], two))
    assert read(texts, codec=text).model_output().predictions == ["a", "ä"]
    flags = Codec(
        Signature(SIGNATURE.features, "x", classes=(False, True), probabilities_output=None)
    )
    decoded = read(response(("label", "INT64", [2], struct.pack("<2q", 0, 1))), codec=flags)
    assert [*map(type, decoded.model_output().predictions)] == [bool, bool]
    assert decoded.model_output().predictions == [False, True]
    assert decoded.model_output().probabilities is None


def test_labels_of_several_columns_are_lists_and_say_whether_json_can_hold_them() -> None:
    codec = Codec(Signature(SIGNATURE.features, "x", probabilities_output=None))
    numbers = struct.pack("<4f", 1, 2, 3, float("nan"))
    output = read(response(("label", "FP32", [2, 2], numbers)), codec=codec).model_output()
    assert output.predictions[0] == [1, 2]
    assert not output.is_finite
    assert output.part(0, 1).is_finite
    assert not output.part(1, 2).is_finite


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "data"),
    [
        ("label", "INT64", [3], bytes(24)),
        ("label", "INT64", [1, 2], bytes(16)),
        ("label", "INT64", [2], bytes(15)),
        ("label", "BF16", [2], bytes(4)),
        ("label", "BYTES", [2], b"\x09\x00\x00\x00a"),
        ("label", "BYTES", [2], b"\x01\x00\x00\x00\xff"),
        ("label", "BYTES", [2], bytes(12)),
        ("label", "INT64", [2, 0], b""),
        ("other", "INT64", [2], bytes(16)),
    ],
)
def test_answer_that_does_not_fit_is_not_passed_on(
    name: str, datatype: str, shape: list[int], data: bytes
) -> None:
    alone = Codec(Signature(SIGNATURE.features, "x", probabilities_output=None))
    label = name, datatype, shape, data
    for answer, codec in ((response(label), alone), (response(label, SCORES), CODEC)):
        with pytest.raises(BadUpstreamAnswer):
            read(answer, codec=codec).model_output()


def test_responses_with_equal_heads_keep_their_own_values() -> None:
    reader = ResponseReader(1, CODEC)
    scores = ("probabilities", "FP32", [1, 2], bytes(8))
    answers = [
        response(("label", "INT64", [1], struct.pack("<q", label)), scores) for label in (7, 8)
    ]
    first, second = [reader.read(answer, 1) for answer in answers]
    assert (first.model_output().predictions, second.model_output().predictions) == ([7], [8])
    with pytest.raises(BadUpstreamAnswer):
        reader.read(answers[0], 2).model_output()


def test_outputs_of_any_type_are_cut_by_rows() -> None:
    texts = pack("BYTES", ["a", "", "ä", "dd"])
    tensors = [LABELS, ("t", "BYTES", [2, 2], texts), ("half", "FP16", [2, 3], bytes(range(12)))]
    part = read(response(*tensors)).part(1, 2)
    assert part is not None
    assert [(one.name, one.shape, bytes(one.data)) for one in part] == [
        ("label", (1,), struct.pack("<q", 8)),
        ("t", (1, 2), pack("BYTES", ["ä", "dd"])),
        ("half", (1, 3), bytes(range(6, 12))),
    ]


@pytest.mark.parametrize("shape", [[], [1], [3, 2], [1, 2]])
def test_outputs_that_are_not_by_rows_are_not_cut(shape: list[int]) -> None:
    outputs = read(response(LABELS, ("scalar", "FP32", shape, bytes(24))))
    assert outputs.part(0, 1) is None
    whole = outputs.part(0, 2)
    assert whole is not None
    assert len(whole) == 2


def test_request_names_its_version_and_its_trace() -> None:
    builder = RequestBuilder("h:1", "/base", "m", 3, CODEC.inputs, b'"outputs":[]')
    for _ in range(2):
        head, _, body = builder.build((bytes(8),), 1, b"00-trace").partition(b"\r\n\r\n")
        assert head.startswith(b"POST /base/v2/models/m/versions/3/infer HTTP/1.1\r\n")
        assert b"traceparent: 00-trace" in head
        assert b"Content-Length: %d" % len(body) in head
        assert json.loads(body[:-8])["inputs"][0]["shape"] == [1, 2]
    assert b"traceparent" not in builder.build((bytes(8),), 1)
