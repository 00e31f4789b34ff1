"""A request for features of entities, key by key, and how its results are joined."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from serving_gateway.errors import GatewayError
from serving_gateway.features.entity_rows import KeyRead
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.types import (
    EntityOutcome,
    LookupRequest,
    LookupResult,
    Status,
    oldest_time,
)


class KeyedIds(NamedTuple):
    """The ids of one key in a request, and how they are read."""

    read: KeyRead
    ids: Sequence[int | str]
    """Distinct ids; a harmless one stands in for each that is invalid."""
    errors: dict[int, GatewayError]
    """Errors of single ids, by position."""
    places: Sequence[int | None] | None
    """For each entity of the request, the index of its id, None without one; None where the ids are
    the entities."""

    def outcomes(
        self, rows: Sequence[Sequence[Row]], nullable: frozenset[str], now: float
    ) -> list[EntityOutcome]:
        """Interpret the rows of each view, one per id, for each entity."""
        results: list[EntityOutcome] = []
        results += self.read.judge(rows, nullable, now)
        for at, error in self.errors.items():
            results[at] = error
        if self.places is None:
            return results
        if None not in self.places:
            return [results[at] for at in self.places if at is not None]
        unknown = self.read.unknown_id_result
        return [unknown if at is None else results[at] for at in self.places]


class Join(NamedTuple):
    """How the results of several keys combine into those of their entities."""

    views: tuple[tuple[str, ...], ...]
    """Names by view, for all keys in order."""
    arrange: Callable[[list[Any]], Sequence[Any]] | None
    """Brings the values of all keys into the order of the request; None where they are in it."""

    def outcome(self, parts: Sequence[EntityOutcome]) -> EntityOutcome:
        """The outcome for one entity, given that of each key."""
        values: list[Any] = []
        times: list[float | None] = []
        results: list[LookupResult] = []
        is_found = True
        for part in parts:
            if not isinstance(part, LookupResult):
                return part
            results.append(part)
            if part.values is None:
                is_found = False
                values += part.stored or ()
            else:
                values += part.values
            if part.views:
                times += part.times
            else:
                times.append(part.observed_at)
        if self.arrange is not None:
            values = [*self.arrange(values)]
        oldest = oldest_time(times)
        if is_found:
            return LookupResult(
                Status.FOUND, values, (), oldest, (), None, self.views, tuple(times)
            )
        gaps = tuple(chain.from_iterable([result.gaps for result in results]))
        missing = tuple(chain.from_iterable([gap.missing for gap in gaps]))
        status = gaps[0].status
        return LookupResult(status, None, missing, oldest, gaps, values, self.views, tuple(times))


class PlannedRead(NamedTuple):
    """A request, and how it is read."""

    config: Any
    """Feast's configuration."""
    request: LookupRequest
    keys: Sequence[KeyedIds]
    join: Join | None
    """None where a single key has all that is requested."""
    is_blocking: bool
    """Whether Feast reads it, in a thread."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask the store for."""
        return self.join is not None and not any(key.ids for key in self.keys)

    def empty_outcomes(self) -> list[EntityOutcome]:
        """The outcome of an empty read, for each entity."""
        return self.outcomes([[[] for _ in own.read.views] for own in self.keys])

    def outcomes(self, rows: Sequence[Sequence[Sequence[Row]]]) -> list[EntityOutcome]:
        """Interpret the rows of each key, by view, for each entity."""
        now, nullable = time.time(), self.request.nullable
        columns = [
            own.outcomes(views, nullable, now) for own, views in zip(self.keys, rows, strict=True)
        ]
        if self.join is None:
            return columns[0]
        return [*map(self.join.outcome, zip(*columns, strict=True))]
