"""Values of rows, checked by the types of the features, as they are put into tensors: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from typing import Any, Final

from serving_gateway.contract import DType, Feature
from serving_gateway.errors import InvalidInput

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_EXACT: Final = 2**53
"""Up to it either way, a double holds every integer."""
_FP32_MAX: Final = 3.4028235677973366e38
"""The largest double that still rounds to a finite FP32."""


def checked(value: Any, feature: Feature, field: str) -> Any:
    """`value` when it fits the feature's type, as its tensor holds it; null as NaN or "".

    Args:
        value: of JSON or of a feature store.
        feature: whose value it is.
        field: its place in the request, for the error.

    Raises:
        InvalidInput: it does not fit, or is missing and may not be.
    """
    if value is None or (value == "" and feature.dtype is DType.BYTES):
        if not feature.nullable:
            given = "null" if value is None else "empty, which is the same as null"
            raise InvalidInput(
                f"{field} is {given}; {feature.name} may not be missing.",
                field=field,
                code="missing_value",
            )
        return "" if feature.dtype is DType.BYTES else nan
    plain = _CHECKS[feature.dtype](value, field)
    if feature.nullable and feature.dtype is DType.INT64 and abs(plain) > _EXACT:
        raise InvalidInput(
            f"{field} is beyond 2^53: integers of {feature.name}, which may be missing, travel as "
            "64-bit floats, which hold no larger ones exactly.",
            field=field,
            code="out_of_range",
        )
    return plain


def _wrong_type(value: Any, wanted: str, field: str) -> InvalidInput:
    names = {bool: "a boolean", str: "text", list: "a list", dict: "an object", float: "a number"}
    given = names.get(type(value), "a number")
    return InvalidInput(f"{field} is {given}; {wanted} is needed.", field=field, code="wrong_type")


def _double(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(value, "a number", field)
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput(
            f"{field} is beyond the range of a 64-bit float.", field=field, code="out_of_range"
        ) from error


def _single(value: Any, field: str) -> float:
    number = _double(value, field)
    if abs(number) >= _FP32_MAX:
        raise InvalidInput(
            f"{field} is {number:g}, beyond the range of a 32-bit float.",
            field=field,
            code="out_of_range",
        )
    return number


def _integer(value: Any, field: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(value, "a whole number", field)
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise InvalidInput(
            f"{field} is beyond the range of a 64-bit integer.", field=field, code="out_of_range"
        )
    return value


def _boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "true or false", field)
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "text", field)
    return value


_CHECKS: Final[Mapping[DType, Callable[[Any, str], Any]]] = {
    DType.FP32: _single,
    DType.FP64: _double,
    DType.INT64: _integer,
    DType.BOOL: _boolean,
    DType.BYTES: _text,
}
