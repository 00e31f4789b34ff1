"""Null in the JSON tensors of the Open Inference Protocol, which has no word for it: pure.

Triton refuses a null, and reads NaN, though that is no JSON. So what may be missing is written
as a tensor has it, NaN or the empty text; nothing else of the request is touched.
"""

from __future__ import annotations

import json
from itertools import count
from math import isfinite, isinf, nan
from typing import Any, Final

from serving_gateway.contract import DType, Feature
from serving_gateway.errors import InvalidInput, MalformedRequest
from serving_gateway.inference.codec import Codec

_MARKS: Final = (b"null", b"NaN", b"Infinity")


def replace_nulls_with_nan(
    body: bytes, header_length: int | None, codec: Codec
) -> tuple[bytes, int | None]:
    """An inference request, and the length of its JSON part, with no null among its values.

    Args:
        body: a request that `read_request` accepts.
        header_length: bytes of the JSON part; None for the whole body.
        codec: of the version that is to answer.

    Raises:
        InvalidInput: a value is null and may not be; `field` says where.
        MalformedRequest: the JSON is nested too deeply.
    """
    text = body if header_length is None else body[:header_length]
    if not any(mark in text for mark in _MARKS):
        return body, header_length
    try:
        request: dict[str, Any] = json.loads(text.decode())  # which may hold NaN as well
        if not _fill(request["inputs"], _columns(codec)):
            return body, header_length
        head = json.dumps(request, separators=(",", ":")).encode()
    except RecursionError as error:
        raise MalformedRequest("The body is nested too deeply.") from error
    except ValueError as error:  # what nobody looked at so far: other bytes, endless numbers
        raise MalformedRequest(f"The JSON part is no JSON: {error}.") from error
    return (head, None) if header_length is None else (head + body[header_length:], len(head))


def _fill(tensors: list[dict[str, Any]], columns: dict[str, tuple[Feature, ...]]) -> bool:
    """Fill the tensors' data where it is null; whether any is."""
    found = False
    for place, tensor in enumerate(tensors):
        data = tensor.get("data")
        if isinstance(data, list) and _has_gap(data):
            field = f"inputs[{place}].data"
            tensor["data"] = _filled(data, columns.get(tensor["name"], ()), field, count())
            found = True
    return found


def _columns(codec: Codec) -> dict[str, tuple[Feature, ...]]:
    """By input, the features that its columns are."""
    features = codec.signature.features
    if codec.signature.packed_input is not None:
        return {codec.signature.packed_input: features}
    return {feature.name: (feature,) for feature in features}


def _is_gap(one: Any) -> bool:
    return one is None or (isinstance(one, float) and not isfinite(one))


def _has_gap(data: list[Any]) -> bool:
    return any(_has_gap(one) if isinstance(one, list) else _is_gap(one) for one in data)


def _filled(
    data: list[Any], columns: tuple[Feature, ...], field: str, places: count[int]
) -> list[Any]:
    """Data, flat or nested, in the row-major order of its elements."""
    filled: list[Any] = []
    for at, one in enumerate(data):
        if isinstance(one, list):
            filled.append(_filled(one, columns, f"{field}[{at}]", places))
            continue
        place = next(places)
        if _is_gap(one):
            filled.append(
                _missing(columns[place % len(columns)] if columns else None, one, field, at)
            )
        else:
            filled.append(one)
    return filled


def _missing(feature: Feature | None, value: float | None, field: str, at: int) -> Any:
    if value is not None and isinf(value):
        raise InvalidInput(f"{field}[{at}] is infinite.", field=f"{field}[{at}]")
    if feature is None or not feature.nullable:
        name = "this input" if feature is None else feature.name
        raise InvalidInput(
            f"{field}[{at}] is {'null' if value is None else 'NaN'}; {name} may not be missing.",
            field=f"{field}[{at}]",
            code="missing_value",
        )
    return "" if feature.dtype is DType.BYTES else nan
