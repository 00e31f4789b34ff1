"""What an online store knows about an entity, and the interface of such a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from serving_gateway.contract import TIMELESS
from serving_gateway.errors import EntityUnusable, FeaturesUnavailable, GatewayError

EntityKey: TypeAlias = int | str | tuple[int | str | None, ...]
"""The id for a service with one key. For several keys, all ids in order, None for an id that is not
known."""


class Status(StrEnum):
    """What the store knows about an entity."""

    FOUND = "found"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    """Older than the TTL of its feature view (0 means for ever)."""
    INCOMPLETE = "incomplete"
    """Known, but some of the features are null and may not be."""
    UNNAMED = "unnamed"
    """Not looked up: its id is not known."""

    __hash__ = str.__hash__  # an enumeration's own costs a Python call for each entity


class Gap(NamedTuple):
    """Why the views of one key do not have an entity's features."""

    key: str
    views: tuple[str, ...]
    status: Status
    missing: tuple[str, ...]
    """Names without a usable value."""
    observed_at: float | None = None

    @property
    def event_timestamp(self) -> str | None:
        """When the values were observed, as RFC 3339."""
        return None if self.observed_at is None else rfc3339(self.observed_at)


class LookupResult(msgspec.Struct, frozen=True, gc=False):
    """One entity's features. Shared by all look-ups that a read served: never change it."""

    status: Status
    """The status of the first gap, if there is any."""
    values: list[Any] | None
    """In the order of the requested names, None where null; no list unless `FOUND`."""
    missing: tuple[str, ...] = ()
    """The names without a usable value."""
    observed_at: float | None = None
    """When the values were observed, in seconds since the epoch; the oldest of several views."""
    gaps: tuple[Gap, ...] = ()
    """One for each key that is not `FOUND`."""
    stored: list[Any] | None = None
    """Without `values`: those that are usable, and None for the others."""
    views: tuple[tuple[str, ...], ...] = ()
    """The names by view, where there are several views."""
    times: tuple[float | None, ...] = ()
    """When the values of each of these views were observed; None where it has none."""

    @property
    def event_timestamp(self) -> str | None:
        """When the values were observed, as RFC 3339."""
        return None if self.observed_at is None else rfc3339(self.observed_at)

    def oldest_without(self, names: Set[str]) -> float | None:
        """When the oldest values were observed, ignoring views all of whose names are given."""
        if not self.views:
            return self.observed_at
        pairs = zip(self.views, self.times, strict=True)
        return oldest_time([at for own, at in pairs if not names >= {*own}])


def oldest_time(times: Iterable[float | None]) -> float | None:
    """The earliest known time; tables without timestamps have none."""
    return min([at for at in times if at is not None and at != TIMELESS], default=None)


@lru_cache(1024)  # values that were written together share a time
def rfc3339(seconds: float) -> str:
    """A time in seconds since the epoch, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class InvalidEntityIds(EntityUnusable, code="wrong_type"):
    """An id at `position` in the request that cannot be an entity's; `why` follows its place.

    `key` is the name of the id's key.
    """

    def __init__(self, position: int, why: str, key: str = "") -> None:
        place = f"entity_ids[{position}]"
        super().__init__(f"{place} {why}", field=place)
        self.position = position
        self.why = why
        self.key = key


class ServiceUnusable(FeaturesUnavailable, code="feature_service_unusable"):
    """The store works, but lacks this feature service or some of the requested features."""


class KeyMismatch(ServiceUnusable):
    """The features are read by other `keys` than those that the look-up names."""

    def __init__(self, message: str, keys: tuple[str, ...]) -> None:
        super().__init__(message)
        self.keys = keys


class LookupRequest(NamedTuple):
    """A read of one feature service."""

    service: str
    names: tuple[str, ...]
    ids: Sequence[EntityKey]
    nullable: frozenset[str] = frozenset()
    """The names whose values may be null."""
    keys: tuple[str, ...] = ()
    """The names of the keys of `ids`; () for the only key, whatever its name."""


LookupDone: TypeAlias = Callable[[list[LookupResult] | GatewayError], None]
"""Called once with one result per id, in the order of the ids, or with an error for all."""

EntityOutcome: TypeAlias = LookupResult | GatewayError

ReadDone: TypeAlias = Callable[[list[EntityOutcome] | GatewayError], None]
"""The same for a store, where an unreadable entity has an error of its own: `InvalidEntityIds` for
an id of another type than the entity's."""


class FeatureStore(Protocol):
    """Where features are read."""

    async def prepare(self, *services: str) -> None:
        """Do what can be done before these services are first read; reads retry what failed."""

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Read features of distinct ids; never raises and never calls back synchronously.

        Errors for all ids: `ServiceUnusable` for a service that is not there, cannot be read by
        ids or lacks a feature (`KeyMismatch` where only the keys are wrong); `FeaturesUnavailable`
        for a store that cannot be read.
        """

    async def aclose(self) -> None:
        """Close connections and let threads end by themselves."""


def feast_failure(doing: str, error: Exception) -> GatewayError:
    """The gateway's error for any exception of Feast or of the store behind it."""
    # Feast lets the exceptions of its stores through (sqlite3, SQLAlchemy, redis, pydantic), and
    # its own have no common root: this is the one place that translates them all.
    if isinstance(error, GatewayError):
        return error
    # Further lines may quote the configuration, and so secrets.
    text = (str(error).splitlines() or [""])[0][:300]
    failure = FeaturesUnavailable(f"Feast could not {doing}: {type(error).__name__}: {text}")
    failure.__cause__ = error
    return failure
