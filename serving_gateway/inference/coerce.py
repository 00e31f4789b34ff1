"""Values of rows, coerced to what the tensors of their features hold; pure functions.

NaN means that a value is missing, in every encoding: null or NaN in JSON, NaN in a binary tensor,
the empty text among texts. It is accepted where the feature may be missing. Infinity never is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from typing import Any, Final

from serving_gateway.contract import DType, Feature
from serving_gateway.errors import InvalidInput
from serving_gateway.inference.tensors import FLOATS, all_finite

Place = Callable[[int, int], str]
"""The path of a value in the request, by its row and its column; called for errors only."""

_FP32_MAX: Final = 3.4028235677973366e38
"""The largest double that still rounds to a finite FP32."""
_EXACT: Final = 2**53
"""Up to this absolute value, a double holds every integer."""
_WANTED: Final[Mapping[DType, tuple[frozenset[type], str]]] = {
    DType.FP32: (frozenset([float, int]), "a number"),
    DType.FP64: (frozenset([float, int]), "a number"),
    DType.INT64: (frozenset([int]), "a whole number"),
    DType.BOOL: (frozenset([bool]), "true or false"),
    DType.BYTES: (frozenset([str]), "text"),
}
_KINDS: Final = {bool: "a boolean", str: "text", list: "a list", dict: "an object"}


def invalid_value(field: str, what: str, *, code: str) -> InvalidInput:
    """The error for a wrong value: `what` follows its place in the message."""
    return InvalidInput(f"{field} {what}", field=field, code=code)


def coerce_elements(
    flat: list[Any], features: Sequence[Feature], place: Place, *, is_uniform: bool
) -> list[Any]:
    """The elements of one tensor, row by row; null becomes NaN or the empty text.

    `is_uniform` says that all features have the tensor's own type. `InvalidInput` for a value that
    does not fit, or is missing and may not be.
    """
    if is_uniform and _is_plain(flat, features[0]):
        return flat
    width = len(features)
    coerced = list(flat)
    for column, feature in enumerate(features):
        values = flat[column::width]
        if not _is_plain(values, feature):
            for row, value in enumerate(values):
                try:
                    coerced[row * width + column] = _coerce(value, feature)
                except InvalidInput as error:
                    raise invalid_value(
                        place(row, column), error.message, code=error.code
                    ) from None
    return coerced


def _is_plain(values: list[Any], feature: Feature) -> bool:
    """Whether the values surely need no coercion, judged without a look at each of them."""
    dtype, kinds = feature.dtype, set(map(type, values))
    if dtype is DType.BYTES:
        return kinds == {str} and "" not in values and _is_encodable("".join(values))
    if dtype is DType.BOOL:
        return kinds == {bool}
    if dtype is DType.INT64:
        return kinds == {int} and max(map(abs, values)) <= _EXACT
    return (
        kinds == {float}
        and all_finite(values)
        and (dtype is DType.FP64 or max(map(abs, values)) < _FP32_MAX)
    )


def _coerce(value: Any, feature: Feature) -> Any:
    """Coerce one value; an error's message is meant to follow the value's place."""
    dtype = feature.dtype
    if value is None or value != value or (value == "" and dtype is DType.BYTES):  # noqa: PLR0124
        if feature.nullable:
            return "" if dtype is DType.BYTES else nan
        what = "null" if value is None else "NaN" if value != "" else "empty, the same as null"
        raise InvalidInput(f"is {what}; {feature.name} may not be missing.", code="missing_value")
    if dtype is DType.INT64 and type(value) is float and value.is_integer():
        value = int(value)
    kinds, wanted = _WANTED[dtype]
    if type(value) not in kinds:
        kind = _KINDS.get(type(value), "a number")
        raise InvalidInput(f"is {kind}; {wanted} is needed.", code="wrong_type")
    if dtype is DType.INT64:
        return _integer(value, feature)
    if dtype is DType.BYTES and not _is_encodable(value):
        what = "holds half of a surrogate pair, which UTF-8 cannot hold."
        raise InvalidInput(what, code="invalid_text")
    return _number(value, dtype) if dtype in FLOATS else value


def _number(value: float, dtype: DType) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise InvalidInput("is beyond the range of a 64-bit float.", code="out_of_range") from None
    if not isfinite(number):
        raise InvalidInput("is infinite; rows hold finite numbers.", code="not_finite")
    if dtype is DType.FP32 and abs(number) >= _FP32_MAX:
        what = f"is {number:g}, beyond the range of a 32-bit float."
        raise InvalidInput(what, code="out_of_range")
    return number


def _integer(value: int, feature: Feature) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidInput("is beyond the range of a 64-bit integer.", code="out_of_range")
    if feature.nullable and abs(value) > _EXACT:
        raise InvalidInput(
            f"is beyond 2^53: integers of {feature.name}, which may be missing, travel as 64-bit "
            "floats, which hold no larger ones exactly.",
            code="out_of_range",
        )
    return value


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
