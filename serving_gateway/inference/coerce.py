"""Values of rows, coerced by the types of the features to what their tensors hold: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isfinite, nan
from typing import Any, Final

from serving_gateway.contract import DType, Feature
from serving_gateway.errors import InvalidInput

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_EXACT: Final = 2**53
"""Up to it either way, a double holds every integer."""
_FP32_MAX: Final = 3.4028235677973366e38
"""The largest double that still rounds to a finite FP32."""
_PLAIN: Final[Mapping[DType, type]] = {
    DType.FP64: float,
    DType.BOOL: bool,
    DType.BYTES: str,
}
"""Types whose values need no look at each when a column holds nothing else."""


class _Unfit(Exception):
    """A value does not fit: what to say behind its place, and a code."""

    def __init__(self, what: str, code: str) -> None:
        super().__init__(what)
        self.what = what
        self.code = code


def coerce_column(values: Iterable[Any], feature: Feature, path: Callable[[int], str]) -> list[Any]:
    """The values of one feature as its tensor holds them; null becomes NaN or the empty text.

    Args:
        values: of JSON or of a feature store, row by row.
        feature: whose values they are.
        path: place of a row's value in the request, for the error alone.

    Raises:
        InvalidInput: a value does not fit, or is missing and may not be.
    """
    column = list(values)
    plain = _PLAIN.get(feature.dtype)
    if plain is not None and set(map(type, column)) == {plain}:
        if plain is str:
            if "" not in column and all(map(_is_encodable, column)):
                return column
        elif plain is bool or all(map(isfinite, column)):
            return column
    check = _CHECKS[feature.dtype]
    coerced: list[Any] = []
    for row, value in enumerate(column):
        try:
            coerced.append(_coerce(value, feature, check))
        except _Unfit as unfit:
            place = path(row)
            raise InvalidInput(f"{place} {unfit.what}", field=place, code=unfit.code) from None
    return coerced


def coerce(value: Any, feature: Feature, path: str) -> Any:
    """One value as its tensor holds it; see `coerce_column`."""
    return coerce_column((value,), feature, lambda _: path)[0]


def missing_value(feature: Feature) -> float | str:
    """What stands for null in the feature's tensor."""
    return "" if feature.dtype is DType.BYTES else nan


def _coerce(value: Any, feature: Feature, check: Callable[[Any], Any]) -> Any:
    missing = value is None or (value != value) or (value == "" and feature.dtype is DType.BYTES)  # noqa: PLR0124
    if missing:
        if not feature.nullable:
            what = "null" if value is None else "NaN" if value != "" else "empty, the same as null"
            raise _Unfit(f"is {what}; {feature.name} may not be missing.", "missing_value")
        return missing_value(feature)
    plain = check(value)
    if feature.nullable and feature.dtype is DType.INT64 and abs(plain) > _EXACT:
        raise _Unfit(
            f"is beyond 2^53: integers of {feature.name}, which may be missing, travel as 64-bit "
            "floats, which hold no larger ones exactly.",
            "out_of_range",
        )
    return plain


def _wrong_type(value: Any, wanted: str) -> _Unfit:
    names = {bool: "a boolean", str: "text", list: "a list", dict: "an object", float: "a number"}
    return _Unfit(f"is {names.get(type(value), 'a number')}; {wanted} is needed.", "wrong_type")


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(value, "a number")
    try:
        number = float(value)
    except OverflowError:
        raise _Unfit("is beyond the range of a 64-bit float.", "out_of_range") from None
    if not isfinite(number):
        raise _Unfit("is infinite; rows hold finite numbers.", "not_finite")
    return number


def _single(value: Any) -> float:
    number = _double(value)
    if abs(number) >= _FP32_MAX:
        raise _Unfit(f"is {number:g}, beyond the range of a 32-bit float.", "out_of_range")
    return number


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(value, "a whole number")
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise _Unfit("is beyond the range of a 64-bit integer.", "out_of_range")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "true or false")
    return value


def _is_encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "text")
    if not _is_encodable(value):
        raise _Unfit("holds half of a surrogate pair, which UTF-8 cannot hold.", "invalid_text")
    return value


_CHECKS: Final[Mapping[DType, Callable[[Any], Any]]] = {
    DType.FP32: _single,
    DType.FP64: _double,
    DType.INT64: _integer,
    DType.BOOL: _boolean,
    DType.BYTES: _text,
}
