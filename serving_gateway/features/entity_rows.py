"""Reads of entities by one key: which views hold which features, and what their rows mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from serving_gateway.features.entity_ids import ServiceKey
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.types import Gap, LookupResult, Status, oldest_time


class View(msgspec.Struct, frozen=True, eq=False):
    """One feature view of a service."""

    name: str
    table: Any
    """Feast's own view object, which its online stores expect."""
    key: ServiceKey
    join_key: str
    """The key's name as it is stored; a mapped one has another name for callers."""
    ttl_seconds: float
    """Age after which values are expired; 0: never."""


class ViewRead(NamedTuple):
    """What to read of one view."""

    view: View
    features: Sequence[str]
    """Their names in the view."""
    value_types: Sequence[str]
    """Feast's names of their types."""
    names: tuple[str, ...]
    """Their names in the request."""
    positions: Sequence[int]
    """Their positions among the values of their key."""


class HashRead(NamedTuple):
    """Views that Redis has in the same hash."""

    command: Callable[[int | str], bytes]
    """The command for an entity; its reply holds each view's values and its timestamp."""
    parts: Sequence[tuple[int, int, Callable[[Sequence[bytes | None]], Row]]]
    """For each view: where it begins and ends in the reply, and its decoder."""

    @property
    def width(self) -> int:
        """The number of elements in the reply."""
        return self.parts[-1][1]

    def rows(self, replies: Sequence[Sequence[bytes | None]]) -> list[list[Row]]:
        """The rows of each view, one per reply."""
        if len(self.parts) == 1:
            return [[*map(self.parts[0][2], replies)]]
        return [[decode(row[start:stop]) for row in replies] for start, stop, decode in self.parts]


class KeyRead(NamedTuple):
    """What to read by one key."""

    key: ServiceKey
    names: tuple[str, ...]
    """Requested features that are stored by this key, in the order of the request."""
    views: Sequence[ViewRead]
    hashes: Sequence[HashRead] | None
    """The same views as hashes; None where Feast reads them."""

    @property
    def unknown_id_result(self) -> LookupResult:
        """The result for an id that is not known."""
        values, times = [None] * len(self.names), [None] * len(self.views)
        return self._result(Status.UNNAMED, values, times, self.names)

    def judge(
        self, rows: Sequence[Sequence[Row]], nullable: frozenset[str], now: float
    ) -> list[LookupResult]:
        """Interpret the rows of each view, one per id, at the time `now`."""
        if len(rows) != 1:
            return [self._judge(own, nullable, now) for own in zip(*rows, strict=True)]
        # One view: its values are the result's, and usually all are there and fresh.
        ttl = self.views[0].view.ttl_seconds
        oldest = now - ttl if ttl > 0 else 0.0
        found = Status.FOUND
        return [
            LookupResult(found, row[1], (), row[0])
            if row[0] and row[0] >= oldest and row[1] and None not in row[1]
            else self._judge((row,), nullable, now)
            for row in rows[0]
        ]

    def _judge(self, rows: Sequence[Row], nullable: frozenset[str], now: float) -> LookupResult:
        """Join an entity's rows of all views: unknown, expired, incomplete or found."""
        values: list[Any] = [None] * len(self.names)
        times: list[float | None] = []
        expired: set[str] = set()
        for view, (observed_at, row) in zip(self.views, rows, strict=True):
            is_empty = row is None or all(value is None for value in row)
            if observed_at is None or (is_empty and observed_at == 0):
                times.append(None)
                continue
            times.append(observed_at)
            if 0 < view.view.ttl_seconds < now - observed_at:
                expired.update(view.names)
            elif row is not None:
                for position, value in zip(view.positions, row, strict=True):
                    values[position] = value
        if not any(at is not None for at in times):
            return self._result(Status.UNKNOWN, values, times, self.names)
        # Expired is not the same as never observed, even where null is allowed.
        needed = expired.union(name for name in self.names if name not in nullable)
        pairs = zip(self.names, values, strict=True)
        missing = tuple([name for name, value in pairs if value is None and name in needed])
        if missing:
            status = Status.EXPIRED if expired else Status.INCOMPLETE
            return self._result(status, values, times, missing)
        return self._result(Status.FOUND, values, times)

    def _result(
        self,
        status: Status,
        values: list[Any],
        times: Sequence[float | None],
        missing: tuple[str, ...] = (),
    ) -> LookupResult:
        oldest = oldest_time(times)
        by_view: tuple[Any, ...] = ()
        if len(self.views) > 1:
            by_view = tuple([read.names for read in self.views]), tuple(times)
        if status is Status.FOUND:
            return LookupResult(status, values, (), oldest, (), None, *by_view)
        views = tuple([read.view.name for read in self.views])
        gap = Gap(self.key.name, views, status, missing, oldest)
        return LookupResult(status, None, missing, oldest, (gap,), values, *by_view)
