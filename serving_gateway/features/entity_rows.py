"""Reads of entities, view by view: their rows as plain values, and what these mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import isnan
from struct import Struct
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from serving_gateway.errors import GatewayError
from serving_gateway.features.entity_ids import IdType
from serving_gateway.features.types import EntityOutcome, LookupRequest, LookupResult, Status

Row: TypeAlias = tuple[float | None, list[Any] | None]
"""One entity in one view: when it was observed (seconds since the epoch) and its values. Redis
reports nulls of the epoch for an entity that it does not have."""

_FIXED: Final = {"FLOAT": (0x35, "f"), "DOUBLE": (0x29, "d")}
"""By value type: the tag byte of a serialized `Value` and the `struct` format behind it."""


class View(msgspec.Struct, frozen=True, eq=False):
    """One feature view of a service."""

    table: Any
    """Feast's own object, which its online stores want."""
    join_key: str
    """As it is stored; a mapped one has another name for callers."""
    ttl_seconds: float
    """Age after which values are expired; 0: never."""


class ViewRead(NamedTuple):
    """What to read of one view."""

    view: View
    features: Sequence[str]
    positions: Sequence[int]
    """Of these features among the values of a result."""
    command: Callable[[int | str], bytes] | None
    """Redis's command for an entity; None where it is read by Feast."""
    decode: Callable[[Sequence[bytes | None]], Row]
    """What the reply means."""


class PlannedRead(NamedTuple):
    """A request, and how it is read."""

    config: Any
    """Feast's."""
    request: LookupRequest
    id_type: IdType
    reads: Sequence[ViewRead]
    ids: Sequence[int | str]
    """Those of the request, with a harmless one instead of each that is invalid."""
    errors: dict[int, GatewayError]
    """Of single entities, by position."""

    def outcomes(self, rows: Sequence[Sequence[Row]]) -> list[EntityOutcome]:
        """What the rows of each view, one for each id, mean."""
        outcomes = self._judge_all(rows)
        for at, error in self.errors.items():
            outcomes[at] = error
        return outcomes

    def _judge_all(self, rows: Sequence[Sequence[Row]]) -> list[EntityOutcome]:
        now = time.time()
        if len(rows) != 1:
            return [self._judge(own, now) for own in zip(*rows, strict=True)]
        # One view: its values are the result's, and usually all are there and fresh.
        ttl = self.reads[0].view.ttl_seconds
        oldest = now - ttl if ttl > 0 else 0.0
        found = Status.FOUND
        return [
            LookupResult(found, row[1], (), row[0])
            if row[0] and row[0] >= oldest and row[1] and None not in row[1]
            else self._judge((row,), now)
            for row in rows[0]
        ]

    def _judge(self, rows: Sequence[Row], now: float) -> LookupResult:
        """Join an entity's rows of all views: unknown, expired, incomplete or found."""
        names = self.request.names
        values: list[Any] = [None] * len(names)
        oldest: float | None = None
        is_expired = False
        for read, (observed_at, row) in zip(self.reads, rows, strict=True):
            is_empty = row is None or all(value is None for value in row)
            if observed_at is None or (is_empty and observed_at == 0):
                continue
            oldest = observed_at if oldest is None else min(oldest, observed_at)
            if 0 < read.view.ttl_seconds < now - observed_at:
                is_expired = True
            elif row is not None:
                for position, value in zip(read.positions, row, strict=True):
                    values[position] = value
        if oldest is None:
            return LookupResult(Status.UNKNOWN, None, names)
        missing = tuple([name for name, value in zip(names, values, strict=True) if value is None])
        if is_expired:
            # Expired is not the same as never observed, also where null is allowed.
            return LookupResult(Status.EXPIRED, None, missing, oldest)
        missing = tuple([name for name in missing if name not in self.request.nullable])
        if missing:
            return LookupResult(Status.INCOMPLETE, None, missing, oldest)
        return LookupResult(Status.FOUND, values, (), oldest)


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
