"""Columns brought to their declared types: without loss, or not at all.

Missing is null and nothing else afterwards: NaN becomes null, and so does empty text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.sources.columns import Column
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pyarrow as pa

NULL_WORDS: Final = frozenset(
    (
        "",
        *("#N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "N/A"),
        *("NA", "NULL", "NaN", "n/a", "nan", "null"),
    )
)
"""Cells that say "missing" in a column of anything but text, where only the empty one does."""
TRUE_WORDS: Final = ("true", "True", "TRUE", "1")
FALSE_WORDS: Final = ("false", "False", "FALSE", "0")
_HAS_OFFSET: Final = r"[T ].*([Zz]|[+-]\d{2}(:?\d{2})?)$"
_SHOWN: Final = 40


class Mismatch(Exception):
    """Values that are not of the declared type; `examples` are (row from 0, the value)."""

    def __init__(self, examples: Iterator[tuple[int, str]]) -> None:
        super().__init__()
        self.examples = examples


def conform(values: pa.Array, column: Column) -> pa.Array:
    """Return `values` in the column's type, `Column.arrow`.

    Numbers come from whole numbers, decimals and floats (rounded to the declared precision);
    whole numbers from floats only when nothing is behind the point; booleans from 0 and 1;
    text from categories, whole numbers and booleans; anything but text from text that says it;
    times from dates and times, cut to microseconds.

    Raises:
        Mismatch: some are not.
    """
    import pyarrow as pa

    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), column.arrow)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_string_view(kind):
        values, text = values.cast(pa.large_string()), True
    if column.dtype is DType.BYTES:
        return _text(values, column, text)
    if text:
        return _parsed(values, column)
    if column.dtype is None:
        return _times(values, column)
    return {
        DType.FP32: _numbers,
        DType.FP64: _numbers,
        DType.INT64: _whole,
        DType.BOOL: _truths,
    }[column.dtype](values, column)


def _text(values: pa.Array, column: Column, text: bool) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not text:
        if not (pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
            raise _of_type(values)
        return values.cast(pa.string())
    empty = pc.equal(pc.binary_length(values), 0)
    return pc.if_else(empty, None, values).cast(column.arrow)


def _numbers(values: pa.Array, column: Column) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise _of_type(values)
    if not pa.types.is_floating(kind):
        values = values.cast(pa.float64(), safe=False)
    numbers = values.cast(column.arrow, safe=False)
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def _whole(values: pa.Array, _: Column) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values.cast(pa.float64()))
        kept = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
        _refuse(values, pc.invert(kept))
        return values.cast(pa.int64(), safe=False)
    if not (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise _of_type(values)
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        raise _unlike(values, _whole_text) from None


def _truths(values: pa.Array, _: Column) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_boolean(kind):
        return values
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _of_type(values)
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    _refuse(values, pc.invert(pc.or_(pc.equal(values, 0), pc.equal(values, 1))))
    return pc.equal(values, 1)


def _times(values: pa.Array, column: Column) -> pa.Array:
    import pyarrow as pa

    kind = values.type
    if pa.types.is_date(kind):
        values, kind = values.cast(pa.timestamp("us")), pa.timestamp("us")
    if not pa.types.is_timestamp(kind):
        raise _of_type(values)
    if kind.tz is None:
        if column.timezone is None:
            raise _of_type(values)
        values = _in_zone(values.cast(pa.timestamp("us"), safe=False), column.timezone)
    # Nanoseconds are cut; seconds and milliseconds must not overflow.
    return values.cast(pa.timestamp("us", tz="UTC"), safe=kind.unit != "ns")


def _in_zone(values: pa.Array, timezone: str) -> pa.Array:
    import pyarrow.compute as pc

    # An hour that a clock shows twice, or never, is taken as the earlier one.
    return pc.assume_timezone(values, timezone, ambiguous="earliest", nonexistent="earliest")


def _parsed(values: pa.Array, column: Column) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.array(sorted(NULL_WORDS), values.type)
    values = pc.utf8_trim_whitespace(values)
    values = pc.if_else(pc.is_in(values, value_set=words), None, values)
    try:
        if column.dtype is None:
            return _parsed_times(values, column)
        parsed = values.cast(column.arrow)
    except pa.ArrowInvalid:
        raise _unlike(values, parser(column)) from None
    return (
        pc.if_else(pc.is_nan(parsed), None, parsed) if pa.types.is_floating(parsed.type) else parsed
    )


def _parsed_times(values: pa.Array, column: Column) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.timezone is None:
        return values.cast(column.arrow)
    offset = pc.match_substring_regex(values, _HAS_OFFSET)
    local = pc.if_else(offset, None, values).cast(pa.timestamp("us"))
    aware = pc.if_else(offset, values, None).cast(column.arrow)
    return pc.coalesce(aware, _in_zone(local, column.timezone).cast(column.arrow))


def parser(column: Column) -> Callable[[str], Any]:
    """Return a function that raises ValueError or OverflowError for text that is no value.

    It is slow and knows which value is wrong, where Arrow is fast and does not.
    """
    if column.dtype is None:
        return _aware_time if column.timezone is None else datetime.fromisoformat
    parsers: dict[DType, Callable[[str], Any]] = {
        DType.FP32: _number_text,
        DType.FP64: _number_text,
        DType.INT64: _whole_text,
        DType.BOOL: _truth_text,
        DType.BYTES: str,
    }
    return parsers[column.dtype]


def _number_text(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _whole_text(text: str) -> int:
    if re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII) is None:
        raise ValueError(text)
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(text)
    return number


def _truth_text(text: str) -> bool:
    if text.lower() not in {"true", "false", "0", "1"}:
        raise ValueError(text)
    return text.lower() in {"true", "1"}


def _aware_time(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(text)
    return value


def _refuse(values: pa.Array, wrong: pa.Array) -> None:
    """Raise Mismatch for the values where the mask `wrong` is true; null is not wrong."""
    import pyarrow.compute as pc

    rows = pc.indices_nonzero(wrong.fill_null(False))
    if len(rows):
        raise Mismatch((row, f"{values[row].as_py()!r}") for row in rows.to_pylist())


def _unlike(values: pa.Array, parse: Callable[[str], Any]) -> Mismatch:
    def examples() -> Iterator[tuple[int, str]]:
        for row, value in enumerate(values.to_pylist()):
            if value is None:
                continue
            try:
                parse(str(value))
            except (ValueError, OverflowError):
                yield row, f"{str(value)[:_SHOWN]!r}"

    found = list(examples())
    if not found:
        # Arrow is the stricter of the two; what it cannot read is not read.
        found = [(0, "one of the values from here on")]
    return Mismatch(iter(found))


def _of_type(values: pa.Array) -> Mismatch:
    """A whole column of another type: its first value stands for all."""
    import pyarrow.compute as pc

    rows = pc.indices_nonzero(values.is_valid())
    first = rows[0].as_py() if len(rows) else 0
    shown = f"{values[first].as_py()!s:.{_SHOWN}}" if len(rows) else "null"
    return Mismatch(iter([(first, f"{shown} (type {values.type})")]))
