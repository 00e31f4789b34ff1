"""Null in the JSON tensors of the Open Inference Protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import InvalidInput
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.missing_values import replace_nulls_with_nan

PACKED = Codec(
    Signature((Feature("a", DType.FP32), Feature("b", DType.FP32, nullable=True)), packed_input="x")
)
COLUMNS = Codec(
    Signature(
        (Feature("n", DType.INT64, nullable=True), Feature("t", DType.BYTES, nullable=True)), None
    )
)


def request(**data: Any) -> bytes:
    inputs = [{"name": name, "shape": [2], "data": values} for name, values in data.items()]
    return json.dumps({"id": "null ä", "inputs": inputs}, ensure_ascii=False).encode()


def sent(body: bytes) -> list[Any]:
    return [tensor["data"] for tensor in json.loads(body)["inputs"]]


@pytest.mark.parametrize("data", [[1, None, 3, 4.5], [[1, None], [3, 4.5]]])
def test_null_is_nan_where_the_column_may_be_missing(data: list[Any]) -> None:
    body, length = replace_nulls_with_nan(request(x=data), None, PACKED)
    assert length is None
    assert body.count(b"NaN") == 1
    assert str(sent(body)[0]) == str(data).replace("None", "nan")
    assert json.loads(body)["id"] == "null ä"


def test_what_follows_the_json_part_stays_and_its_length_is_told() -> None:
    text = request(n=[None, 2], t=["ä", None])
    body, length = replace_nulls_with_nan(text + b"\x00binary null", len(text), COLUMNS)
    assert length is not None
    assert body[length:] == b"\x00binary null"
    assert str(sent(body[:length])) == "[[nan, 2], ['ä', '']]"


def test_null_and_nan_may_stand_side_by_side() -> None:
    body, _ = replace_nulls_with_nan(
        b'{"inputs":[{"name":"x","data":[1,NaN,2,null]}]}', None, PACKED
    )
    assert str(sent(body)) == "[[1, nan, 2, nan]]"


def test_a_request_without_null_values_is_not_touched() -> None:
    for body in (request(x=[1, 2]), b'{"inputs":[{"name":"x","parameters":null}]}'):
        assert replace_nulls_with_nan(body, None, PACKED) == (body, None)
        assert replace_nulls_with_nan(body, None, PACKED)[0] is body


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"x": [1, 2, None, 4]}, "inputs[0].data[2]"),
        ({"x": [[1, 2], [None, 4]]}, "inputs[0].data[1][0]"),
        ({"x": [1, 2], "other": [None]}, "inputs[1].data[0]"),
    ],
)
def test_null_is_refused_where_nothing_may_be_missing(data: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match="may not be missing") as caught:
        replace_nulls_with_nan(request(**data), None, PACKED)
    assert (caught.value.code, caught.value.field) == ("missing_value", field)
