"""Inference requests of the protocol: what of them reaches Triton, and what is refused and why."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import GatewayError, MalformedRequest, TooLarge
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.protocol_request import pack_tensors, read_request
from serving_gateway.inference.tensors import Tensors, pack

PACKED = Codec(
    Signature((Feature("a", DType.FP32), Feature("b", DType.FP32, nullable=True)), packed_input="x")
)
COLUMNS = Codec(
    Signature(
        (
            Feature("n", DType.INT64),
            Feature("m", DType.INT64, nullable=True),
            Feature("t", DType.BYTES, nullable=True),
            Feature("s", DType.BYTES),
            Feature("f", DType.BOOL),
        ),
        packed_input=None,
    )
)
GOOD: dict[str, Any] = {"n": [1], "m": [2], "t": ["ä"], "s": ["x"], "f": [True]}
TYPES = {"n": "INT64", "m": "FP64", "t": "BYTES", "s": "BYTES", "f": "BOOL"}


def head(*inputs: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"inputs": inputs, **members}, ensure_ascii=False).encode()


def packed_input(data: Any, rows: int = 2, **members: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": data, **members}


def columns(**data: Any) -> bytes:
    return head(
        *(
            {"name": name, "shape": [1, 1], "datatype": TYPES[name], "data": values}
            for name, values in {**GOOD, **data}.items()
        )
    )


def packed(body: bytes, codec: Codec = PACKED, header_length: int | None = None) -> Tensors:
    return pack_tensors(read_request(body, header_length), codec, 1024)[0]


def refusal(body: bytes, codec: Codec = PACKED, header_length: int | None = None) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        packed(body, codec, header_length)
    return caught.value


def floats(tensor: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(tensor) // 4}f", tensor))


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5], [3, 4]], [1.0, 2.5, 3.0, 4.0]])
def test_rows_are_packed_flat_or_nested(data: list[Any]) -> None:
    (tensor,) = packed(head(packed_input(data)))
    assert floats(tensor) == [1, 2.5, 3, 4]


@pytest.mark.parametrize("missing", ["null", "NaN"])
@pytest.mark.parametrize("data", ["[1,%s,3,4]", "[[1,%s],[3,4]]"])
def test_missing_number_is_nan_where_the_feature_may_be_missing(missing: str, data: str) -> None:
    body = head(packed_input(None)).replace(b"null", (data % missing).encode())
    (tensor,) = packed(body)
    assert [math.isnan(one) for one in floats(tensor)] == [False, True, False, False]


@pytest.mark.parametrize("missing", ["null", "NaN"])
@pytest.mark.parametrize(
    ("data", "field"),
    [("[1,2,%s,4]", "inputs[0].data[2]"), ("[[1,2],[%s,4]]", "inputs[0].data[1][0]")],
)
def test_missing_number_is_refused_elsewhere(missing: str, data: str, field: str) -> None:
    body = head(packed_input(None)).replace(b"null", (data % missing).encode())
    error = refusal(body)
    assert (error.status, error.code, error.field) == (422, "missing_value", field)


@pytest.mark.parametrize("word", ["Infinity", "-Infinity", "1e999"])
def test_infinity_is_refused_everywhere(word: str) -> None:
    body = head(packed_input(None)).replace(b"null", f"[1,{word},3,4]".encode())
    error = refusal(body)
    assert 400 <= error.status < 500
    if word != "1e999":
        assert (error.code, error.field) == ("not_finite", "inputs[0].data[1]")


def test_mixed_columns_are_packed_in_the_order_of_the_model() -> None:
    assert packed(columns(), COLUMNS) == (
        struct.pack("<q", 1),
        struct.pack("<d", 2),
        pack("BYTES", ["ä"]),
        pack("BYTES", ["x"]),
        b"\1",
    )
    inputs = json.loads(columns())["inputs"]
    assert packed(head(*inputs[::-1]), COLUMNS) == packed(columns(), COLUMNS)
    assert packed(columns(t=[None], m=[None]), COLUMNS)[2] == bytes(4)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"n": [1.5]}, "wrong_type"),
        ({"n": [True]}, "wrong_type"),
        ({"n": [None]}, "missing_value"),
        ({"n": [2**63]}, "out_of_range"),
        ({"s": [""]}, "missing_value"),
        ({"s": [None]}, "missing_value"),
        ({"s": [1]}, "wrong_type"),
        ({"f": [1]}, "wrong_type"),
        ({"n": 1}, "wrong_type"),
        ({"n": [[1, 2]]}, "wrong_width"),
        ({"n": [1, 2]}, "wrong_length"),
        ({"n": []}, "wrong_length"),
    ],
)
def test_element_that_does_not_fit_is_named(data: dict[str, Any], code: str) -> None:
    error = refusal(columns(**data), COLUMNS)
    place = [*GOOD].index(next(iter(data)))
    assert (error.status, error.code) == (422, code)
    assert (error.field or "").startswith(f"inputs[{place}].data")


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"shape": [2]}, "inputs[0].shape", "wrong_shape"),
        ({"shape": [1, 4]}, "inputs[0].shape", "wrong_shape"),
        ({"shape": [0, 2]}, "inputs[0].shape", "wrong_shape"),
        ({"shape": [-2, -2]}, "inputs[0].shape", "wrong_shape"),
        ({"shape": [3, 2]}, "inputs[0].data", "wrong_length"),
        ({"shape": "2"}, "inputs[0].shape", "wrong_type"),
        ({"datatype": "FP64"}, "inputs[0].datatype", "wrong_type"),
        ({"name": "y"}, "inputs[0].name", "unknown_input"),
        ({"name": None}, "inputs[0].name", "wrong_type"),
    ],
)
def test_tensor_of_another_form_is_refused_here(
    change: dict[str, Any], field: str, code: str
) -> None:
    error = refusal(head(packed_input([1, 2, 3, 4], **change)))
    assert (error.status, error.field, error.code) == (422, field, code)


def test_number_of_rows_is_bounded_and_equal_in_all_inputs() -> None:
    many = head(packed_input([0] * 4098, rows=2049))
    assert isinstance(refusal(many), TooLarge)
    inputs = json.loads(columns())["inputs"]
    inputs[3] |= {"shape": [2, 1], "data": ["x", "y"]}
    assert refusal(head(*inputs), COLUMNS).field == "inputs[3].shape"


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (b"{}", "inputs", "missing_field"),
        (b'{"inputs":[]}', "inputs", "missing_input"),
        (b'{"inputs":{}}', "inputs", "wrong_type"),
        (head(packed_input([1, 2], 1), packed_input([1, 2], 1)), "inputs[1].name", "unknown_input"),
        (b'{"inputs":[],"more":1%b}' % (b"0" * 5000), "inputs", "missing_input"),
        (head(packed_input([1, 2], 1), id=7), "id", "wrong_type"),
    ],
)
def test_head_of_another_form_is_refused(body: bytes, field: str, code: str) -> None:
    error = refusal(body)
    assert (error.status, error.field, error.code) == (422, field, code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b'{"inputs":',
        b'{"inputs":[],"more":"\xff"}',
        b'{"more":' + b"[" * 100_000,
        b'{"inputs":[NaN',
    ],
)
def test_body_that_is_not_json_is_malformed(body: bytes) -> None:
    assert isinstance(refusal(body), MalformedRequest)


@pytest.mark.parametrize("nan", ["", ',"more":NaN'])
@pytest.mark.parametrize(
    "members",
    [
        '"id":"\\ud800"',
        '"parameters":{"client_id":"\\ud800"}',
        '"parameters":{"\\ud800":1}',
        '"outputs":[{"name":"\\udfff"}]',
    ],
)
def test_lone_surrogate_is_a_mistake_of_the_client(members: str, nan: str) -> None:
    body = head(packed_input([1, 2], 1))[:-1] + f",{members}{nan}}}".encode()
    error = refusal(body)
    assert 400 <= error.status < 500
    error.message.encode()
    (error.field or "").encode()


SHARED = '"parameters":{"shared_memory_region":"secret","shared_memory_byte_size":8}'
INPUT = '"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]'


@pytest.mark.parametrize(
    "body",
    [
        f'{{"inputs":[{{{INPUT},{SHARED}}}]}}',
        f'{{"inputs":[{{{INPUT}}}],"outputs":[{{"name":"y",{SHARED}}}]}}',
        f'{{"inputs":[{{{INPUT},{SHARED.replace("shared", chr(92) + "u0073hared")}}}]}}',
    ],
)
def test_shared_memory_is_refused(body: str) -> None:
    error = refusal(body.encode())
    assert (error.status, error.code) == (422, "shared_memory")


@pytest.mark.parametrize(
    "body",
    [
        f'{{"inputs":[{{{INPUT},{SHARED},"parameters":{{}}}}]}}',
        f'{{"inputs":[{{{INPUT},{SHARED}}}],"inputs":[{{{INPUT}}}]}}',
        f'{{"inputs":[{{{INPUT}}}],"outputs":[{{"name":"y",{SHARED},"parameters":{{}}}}]}}',
        f'{{"inputs":[{{{INPUT}}}],"parameters":{{"shared_memory_region":"s"}},"parameters":{{}}}}',
    ],
)
def test_nothing_of_a_duplicate_key_reaches_triton(body: str) -> None:
    request = read_request(body.encode(), None)
    tensors, _ = pack_tensors(request, PACKED, 1024)
    assert tensors == (struct.pack("<2f", 1, 2),)
    assert b"shared" not in (request.tail or b"")


def binary(data: bytes, rows: int = 1, **change: Any) -> tuple[bytes, int]:
    tensor = packed_input(None, rows, parameters={"binary_data_size": len(data)}, **change)
    del tensor["data"]
    text = head(tensor)
    return text + data, len(text)


def test_binary_tensors_follow_the_rules_of_json() -> None:
    good = struct.pack("<2f", 1, math.nan)
    assert packed(binary(good)[0], header_length=binary(good)[1]) == (good,)
    for values, code, field in (
        ((math.nan, 1.0), "missing_value", "inputs[0].data[0]"),
        ((1.0, math.inf), "not_finite", "inputs[0].data[1]"),
        ((1.0, 2.0, 3.0), "wrong_length", "inputs[0].parameters.binary_data_size"),
    ):
        body, size = binary(struct.pack(f"<{len(values)}f", *values))
        error = refusal(body, header_length=size)
        assert (error.status, error.code, error.field) == (422, code, field)


@pytest.mark.parametrize("size", [-1, 9, 2**70, True, "8", 7.5])
def test_size_of_a_binary_tensor_must_be_that_of_its_bytes(size: Any) -> None:
    text = head(packed_input(None, 1, parameters={"binary_data_size": size}))
    error = refusal(text + bytes(8), header_length=len(text))
    assert (error.status, error.field) == (422, "inputs[0].parameters.binary_data_size")


def test_bytes_that_belong_to_no_tensor_are_refused() -> None:
    text = head(packed_input([1, 2], 1))
    assert refusal(text + b"x", header_length=len(text)).code == "wrong_length"
    assert isinstance(refusal(text, header_length=len(text) + 1), MalformedRequest)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("t", b"\x01\x00\x00\x00\xff", "invalid_text"),
        ("t", b"\x09\x00\x00\x00a", "wrong_length"),
        ("t", b"\x00\x00\x00\x00" * 2, "wrong_length"),
        ("s", b"\x00\x00\x00\x00", "missing_value"),
        ("f", b"\2", "invalid_input"),
        ("n", bytes(7), "wrong_length"),
    ],
)
def test_binary_columns_are_checked(name: str, data: bytes, code: str) -> None:
    inputs = json.loads(columns())["inputs"]
    place = [*GOOD].index(name)
    del inputs[place]["data"]
    inputs[place]["parameters"] = {"binary_data_size": len(data)}
    text = head(*inputs)
    error = refusal(text + data, COLUMNS, len(text))
    assert (error.status, error.code) == (422, code)
