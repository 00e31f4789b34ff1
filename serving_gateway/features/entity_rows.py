"""The rows of an online store: decoded to plain values, and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import isnan
from struct import Struct
from typing import Any, Final, NamedTuple, TypeAlias

from serving_gateway.features.types import LookupResult, Status

Row: TypeAlias = tuple[float | None, list[Any] | None]
"""One entity in one view: when it was observed (seconds since the epoch) and the plain values of
the read's features. Redis reports nulls of the epoch for an entity that it does not have."""

_FIXED: Final = {"FLOAT": (0x35, "f"), "DOUBLE": (0x29, "d")}
"""By value type: the tag byte of a serialized `Value` and the `struct` format behind it."""


class ViewRows(NamedTuple):
    """What was read of one view."""

    ttl_seconds: float
    positions: Sequence[int]
    """Of the row's values among those of the result."""
    rows: Sequence[Row]
    """One for each id."""


def plain_value(value: Any) -> Any:
    """The content of Feast's `Value` message; None for null, NaN and the empty text."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    plain = getattr(value, kind)
    # pandas writes its nulls as NaN, which alone is not equal to itself.
    return None if plain == "" or plain != plain else plain  # noqa: PLR0124


def make_row_decoder(value_types: Sequence[str]) -> Callable[[Sequence[bytes | None]], Row]:
    """A decoder of a row as Redis holds it: serialized values, and a timestamp after them.

    Values of other types than Feast's `value_types` are decoded as well.
    """
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    parse, parse_timestamp = Value.FromString, Timestamp.FromString
    # A row of floats is unpacked as a whole: a ninth of the time of a message per value. The
    # tags tell whether it has that form; each value ends where the next one's tag must be.
    formats = [_FIXED[one] for one in value_types if one in _FIXED]
    layout = Struct("<" + "".join("B" + letter for _, letter in formats))
    size, unpack, tags = layout.size, layout.unpack, tuple(tag for tag, _ in formats)
    is_fixed = len(formats) == len(value_types)

    def decode(row: Sequence[bytes | None]) -> Row:
        *values, timestamp = row
        seconds = 0.0
        if timestamp:
            stamp = parse_timestamp(timestamp)
            seconds = stamp.seconds + stamp.nanos / 1e9
        if is_fixed and None not in values:
            packed = b"".join(values)  # type: ignore[arg-type]
            if len(packed) == size:
                parts = unpack(packed)
                plain = parts[1::2]
                if parts[::2] == tags and not isnan(sum(plain)):
                    return seconds, [*plain]
        return seconds, [plain_value(parse(one)) if one else None for one in values]

    return decode


def judge_rows(
    names: tuple[str, ...], nullable: frozenset[str], views: Sequence[ViewRows]
) -> list[LookupResult]:
    """Join the rows of all views, and judge each entity: unknown, expired, incomplete or found.

    Args:
        names: of the features, in the order of the results' values.
        nullable: those whose values may be null.
        views: what was read.
    """
    now = time.time()
    if len(views) != 1:
        entities = zip(*[one.rows for one in views], strict=True)
        return [_judge(names, nullable, views, rows, now) for rows in entities]
    # One view: its values are the result's, and usually all are there and fresh.
    [view] = views
    oldest = now - view.ttl_seconds if view.ttl_seconds > 0 else 0.0
    found = Status.FOUND
    return [
        LookupResult(found, row[1], (), row[0])
        if row[0] and row[0] >= oldest and row[1] and None not in row[1]
        else _judge(names, nullable, views, (row,), now)
        for row in view.rows
    ]


def _judge(
    names: tuple[str, ...],
    nullable: frozenset[str],
    views: Sequence[ViewRows],
    rows: Sequence[Row],
    now: float,
) -> LookupResult:
    values: list[Any] = [None] * len(names)
    oldest: float | None = None
    is_expired = False
    for view, (observed_at, row) in zip(views, rows, strict=True):
        is_empty = row is None or all(value is None for value in row)
        if observed_at is None or (is_empty and observed_at == 0):
            continue
        oldest = observed_at if oldest is None else min(oldest, observed_at)
        if 0 < view.ttl_seconds < now - observed_at:
            is_expired = True
        elif row is not None:
            for position, value in zip(view.positions, row, strict=True):
                values[position] = value
    if oldest is None:
        return LookupResult(Status.UNKNOWN, None, names)
    missing = tuple([name for name, value in zip(names, values, strict=True) if value is None])
    if is_expired:
        # Expired is not the same as never observed, also where null is allowed.
        return LookupResult(Status.EXPIRED, None, missing, oldest)
    missing = tuple([name for name in missing if name not in nullable])
    if missing:
        return LookupResult(Status.INCOMPLETE, None, missing, oldest)
    return LookupResult(Status.FOUND, values, (), oldest)
