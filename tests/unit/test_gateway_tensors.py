"""Rows to tensors and back."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_gateway.contract import DType, Feature, ModelMetadata, Signature, TensorDescription
from serving_gateway.errors import InvalidInput, VariantUnavailable
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.signatures import signature_from_metadata
from serving_gateway.inference.tensors import TensorView, unpack

FLOATS = Signature(tuple(Feature(n, DType.FP32) for n in "abc"), packed_input="x")
MIXED = Signature(
    (
        Feature("n", DType.INT64),
        Feature("f", DType.FP64),
        Feature("b", DType.BOOL),
        Feature("t", DType.BYTES),
    ),
    packed_input=None,
)
NULLABLE = Signature(
    tuple(Feature(one.name, one.dtype, nullable=True) for one in MIXED.features), packed_input=None
)


def output(name: str, datatype: str, shape: tuple[int, ...], data: bytes) -> TensorView:
    return TensorView(name, datatype, shape, memoryview(data))


def refusal(signature: Signature, rows: list[Any]) -> tuple[str, str | None]:
    with pytest.raises(InvalidInput) as caught:
        Codec(signature).encode(rows)
    return caught.value.code, caught.value.field


FP32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(FP32, min_size=3, max_size=3), min_size=1, max_size=20))
def test_all_ways_of_packing_floats_agree(rows: list[list[float]]) -> None:
    codec = Codec(FLOATS)
    (fast,) = codec.encode(rows, are_floats=True)
    assert (fast,) == codec.encode(rows)
    assert (fast,) == codec.encode_instances([dict(zip("abc", row, strict=True)) for row in rows])
    assert list(struct.unpack(f"<{3 * len(rows)}f", fast)) == [v for row in rows for v in row]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_packed_exactly_when_fp32_can_hold_it(number: float) -> None:
    codec = Codec(FLOATS)
    try:
        (packed,) = codec.encode([[number, 0, 0]])
    except InvalidInput:
        with pytest.raises(OverflowError):
            struct.pack("<f", number)
    else:
        assert math.isfinite(struct.unpack("<3f", packed)[0])


def test_mixed_columns_become_one_tensor_each() -> None:
    codec = Codec(MIXED)
    tensors = codec.encode([[1, 2.5, True, "ä"], [-(2**63), 3, False, "x"]])
    assert tensors == (
        struct.pack("<2q", 1, -(2**63)),
        struct.pack("<2d", 2.5, 3),
        b"\x01\x00",
        b"\x02\x00\x00\x00\xc3\xa4\x01\x00\x00\x00x",
    )
    named = [{"t": "ä", "n": 1, "b": True, "f": 2.5}, {"n": -(2**63), "f": 3, "b": False, "t": "x"}]
    assert codec.encode_instances(named) == tensors
    assert [len(t) for t in codec.warm_up_rows()] == [8, 8, 1, 4]


def test_what_may_be_missing_travels_as_nan_or_the_empty_text() -> None:
    codec = Codec(NULLABLE)
    assert [one.dtype for one in codec.inputs] == ["FP64", "FP64", "FP32", "BYTES"]
    rows: list[list[Any]] = [
        [7, 2.5, True, "ä"],
        [-(2**53), 3, False, ""],
        [None, None, None, None],
    ]
    numbers, floats, flags, texts = codec.encode(rows)
    named = [dict(zip("nfbt", row, strict=True)) for row in rows]
    assert codec.encode_instances(named) == (numbers, floats, flags, texts)
    assert struct.unpack("<3d", numbers)[:2] == (7, -(2**53))
    assert struct.unpack("<3f", flags)[:2] == (1, 0)
    assert texts == b"\x02\x00\x00\x00\xc3\xa4" + bytes(8)
    for tensor, form in ((numbers, "<3d"), (floats, "<3d"), (flags, "<3f")):
        assert math.isnan(struct.unpack(form, tensor)[2])
    assert [len(tensor) for tensor in codec.warm_up_rows()] == [8, 8, 4, 4]


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ([2**53 + 1, 0, True, "x"], "out_of_range", "data[0][0]"),
        ([-(2**53) - 1, 0, True, "x"], "out_of_range", "data[0][0]"),
        ([1.5, 0, True, "x"], "wrong_type", "data[0][0]"),
        ([True, 0, True, "x"], "wrong_type", "data[0][0]"),
        ([1, "", True, "x"], "wrong_type", "data[0][1]"),
        ([1, 0, 1, "x"], "wrong_type", "data[0][2]"),
        ([1, 0, "", "x"], "wrong_type", "data[0][2]"),
        ([1, 0, True, 0], "wrong_type", "data[0][3]"),
    ],
)
def test_what_may_be_missing_is_checked_by_its_own_type(
    row: list[Any], code: str, field: str
) -> None:
    assert refusal(NULLABLE, [row]) == (code, field)


def test_a_null_among_packed_floats_is_nan_where_it_may_be() -> None:
    features = (Feature("a", DType.FP32), Feature("b", DType.FP32, nullable=True))
    codec = Codec(Signature(features, packed_input="x"))
    assert codec.float_rows
    (packed,) = codec.encode([[1, None]])
    assert math.isnan(struct.unpack("<2f", packed)[1])
    with pytest.raises(InvalidInput, match="a may not be missing") as caught:
        codec.encode([[1, 2], [None, None]])
    assert (caught.value.code, caught.value.field) == ("missing_value", "data[1][0]")


def test_packed_integers_that_may_be_missing_are_no_plain_floats() -> None:
    codec = Codec(Signature((Feature("a", DType.INT64, nullable=True),), packed_input="x"))
    assert not codec.float_rows
    assert codec.encode([[3]]) == (struct.pack("<d", 3),)


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ([None, 0, True, "x"], "missing_value", "data[0][0]"),
        ([1, 0, None, "x"], "missing_value", "data[0][2]"),
        ([1, 0, True, ""], "missing_value", "data[0][3]"),
        ([1.5, 0, True, ""], "wrong_type", "data[0][0]"),
        ([True, 0, True, ""], "wrong_type", "data[0][0]"),
        ([2**63, 0, True, ""], "out_of_range", "data[0][0]"),
        ([1, "0", True, ""], "wrong_type", "data[0][1]"),
        ([1, False, True, ""], "wrong_type", "data[0][1]"),
        ([1, 10**400, True, ""], "out_of_range", "data[0][1]"),
        ([1, 0, 1, ""], "wrong_type", "data[0][2]"),
        ([1, 0, True, None], "missing_value", "data[0][3]"),
        ([1, 0, True, ["x"]], "wrong_type", "data[0][3]"),
        ([1, 0, True], "wrong_width", "data[0]"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(row: list[Any], code: str, field: str) -> None:
    assert refusal(MIXED, [row]) == (code, field)


def test_no_rows_and_wrong_rows_of_floats_are_refused() -> None:
    assert refusal(FLOATS, []) == ("empty", "data")
    assert refusal(FLOATS, [[1, 2, 3], [1, 2]]) == ("wrong_width", "data[1]")
    assert refusal(FLOATS, [[1, 2, 3], [1, True, 3]]) == ("wrong_type", "data[1][1]")
    for rows in ([], [[1.0, 2.0]], [[1e39, 0.0, 0.0]]):
        with pytest.raises(InvalidInput):
            Codec(FLOATS).encode(rows, are_floats=True)


def test_whole_numbers_among_packed_floats_are_floats() -> None:
    codec = Codec(FLOATS)
    assert codec.encode([[1, 2.5, -3]]) == codec.encode([[1.0, 2.5, -3.0]])
    assert codec.encode([[2**24 + 1, 0, 0]]) == codec.encode([[2.0**24, 0.0, 0.0]])
    for beyond in (10**39, 10**400, -(10**400)):
        assert refusal(FLOATS, [[0, 0, 0], [0, beyond, 0]]) == ("out_of_range", "data[1][1]")


@pytest.mark.parametrize(("datatype", "code"), [("UINT8", "B"), ("INT32", "i"), ("FP64", "d")])
def test_other_types_of_answers_are_read(datatype: str, code: str) -> None:
    assert unpack(output("y", datatype, (2,), struct.pack(f"<2{code}", 1, 2))) == [1, 2]


def metadata(*inputs: tuple[str, str, tuple[int, ...]]) -> ModelMetadata:
    outputs = (TensorDescription("label", "INT64", (-1, 1)),)
    return ModelMetadata("m", ("1",), tuple(TensorDescription(*i) for i in inputs), outputs)


def test_triton_s_metadata_stand_in_for_a_signature() -> None:
    packed = signature_from_metadata(metadata(("x", "FP32", (-1, 4))), 1)
    assert (packed.packed_input, len(packed.features)) == ("x", 4)
    assert packed.probabilities_output is None
    columns = signature_from_metadata(metadata(("a", "INT64", (-1, 1)), ("t", "BYTES", (-1, 1))), 1)
    assert [feature.name for feature in columns.features] == ["a", "t"]
    assert Codec(columns).encode([[1, ""]])[1] == bytes(4), "nobody said that it may not be"
    for unknown in (
        (("x", "FP32", (-1, -1)),),
        (("x", "FP16", (-1, 4)),),
        (),
        (("x", "FP32", (-1,)),),
    ):
        with pytest.raises(VariantUnavailable):
            signature_from_metadata(metadata(*unknown), 1)
