"""Reads of entities, view by view: their rows as plain values, and what these mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from serving_gateway.errors import GatewayError
from serving_gateway.features.entity_ids import IdType
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.types import EntityOutcome, LookupRequest, LookupResult, Status


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
