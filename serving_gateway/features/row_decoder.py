"""Rows of an online store as plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from struct import Struct
from typing import Any, Final, TypeAlias

Row: TypeAlias = tuple[float | None, list[Any] | None]
"""One entity in one view: when it was observed (seconds since the epoch) and its values. Redis
reports an entity that it does not have as nulls observed at the epoch."""

_FIXED: Final = {"FLOAT": (0x35, "f"), "DOUBLE": (0x29, "d")}
"""By value type: the tag byte of a serialized `Value` and the `struct` format behind it."""

_FIRST_TIME: Final = -62_135_596_800
_END_OF_TIME: Final = 253_402_300_800
"""From the year 1 up to the year 10000, in seconds since the epoch: what has a date."""


def plain_value(value: Any) -> Any:
    """The content of Feast's `Value` message; None for null, NaN and the empty text."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    plain = getattr(value, kind)
    # pandas writes its nulls as NaN, which alone is not equal to itself.
    return None if plain == "" or plain != plain else plain  # noqa: PLR0124


def make_row_decoder(value_types: Sequence[str]) -> Callable[[Sequence[bytes | None]], Row]:
    """A decoder of rows in Redis: serialized values of any type, and a timestamp after them."""
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    parse, parse_timestamp = Value.FromString, Timestamp.FromString
    # A row of floats is unpacked as a whole, in a ninth of the time of a message per value. The
    # tags tell whether it has that form; each value ends where the next one's tag must be.
    formats = [_FIXED[kind] for kind in value_types if kind in _FIXED]
    layout = Struct("<" + "".join("B" + letter for _, letter in formats))
    size, unpack, tags = layout.size, layout.unpack, tuple(tag for tag, _ in formats)
    is_fixed = len(formats) == len(value_types)

    def decode(row: Sequence[bytes | None]) -> Row:
        *values, timestamp = row
        seconds = 0.0
        if timestamp:
            stamp = parse_timestamp(timestamp)
            seconds = stamp.seconds + stamp.nanos / 1e9
            if not _FIRST_TIME <= seconds < _END_OF_TIME:
                raise ValueError(f"{seconds:.0f} s since the epoch is not a time of the calendar")
        if is_fixed and None not in values:
            packed = b"".join(values)  # type: ignore[arg-type]
            if len(packed) == size:
                parts = unpack(packed)
                plain = parts[1::2]
                if parts[::2] == tags and not isnan(sum(plain)):
                    return seconds, [*plain]
        return seconds, [plain_value(parse(data)) if data else None for data in values]

    return decode
