"""What an online store knows of an entity, and the interface of such a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from serving_gateway.errors import EntityUnusable, FeaturesUnavailable, GatewayError

_ID_TYPES: Final = frozenset({int, str})


class Status(StrEnum):
    """What the store knows of an entity."""

    FOUND = "found"
    UNKNOWN = "unknown"
    """No such entity."""
    EXPIRED = "expired"
    """Older than its feature view lets values become (TTL; 0 is for ever)."""
    INCOMPLETE = "incomplete"
    """Known, but some of the features are null and may not be."""


class LookupResult(msgspec.Struct, frozen=True, gc=False):
    """One entity's features. Shared by all look-ups that a read served: never change it."""

    status: Status
    values: list[Any] | None
    """In the order of the requested names, None where null; no list unless `FOUND`."""
    missing: tuple[str, ...] = ()
    """The names without a usable value."""
    observed_at: float | None = None
    """When the values were observed, in seconds since the epoch; the oldest of several views."""

    @property
    def event_timestamp(self) -> str | None:
        """When the values were observed, as RFC 3339."""
        if self.observed_at is None:
            return None
        return datetime.fromtimestamp(self.observed_at, UTC).isoformat().replace("+00:00", "Z")


class InvalidEntityIds(EntityUnusable):
    """Ids that cannot be an entity's.

    Args:
        wrong: by position in the request, what is wrong, to follow `entity_ids[i]`.
    """

    default_code = "wrong_type"

    def __init__(self, wrong: Mapping[int, str]) -> None:
        first = min(wrong)
        place = f"entity_ids[{first}]"
        super().__init__(f"{place} {wrong[first]}", field=place)
        self.wrong = wrong


class ServiceUnusable(FeaturesUnavailable):
    """The store works, but lacks this feature service or some of the requested features."""

    default_code = "feature_service_unusable"


class LookupRequest(msgspec.Struct, frozen=True):
    """A read of one feature service."""

    service: str
    names: tuple[str, ...]
    ids: Sequence[int | str]
    nullable: frozenset[str] = frozenset()
    """The names whose values may be null."""


LookupDone: TypeAlias = Callable[[list[LookupResult] | GatewayError], None]
"""Called once with one result per id, in the order of the ids, or with an error for all."""

EntityOutcome: TypeAlias = LookupResult | GatewayError

ReadDone: TypeAlias = Callable[[list[EntityOutcome] | GatewayError], None]
"""The same of a store, where an unreadable entity has an error of its own: `InvalidEntityIds`
at position 0 for an id of another type than the entity's."""


class FeatureStore(Protocol):
    """Where features are read."""

    async def prepare(self, *services: str) -> None:
        """Do all that can be done before these services are read for the first time.

        Returns also when it could not be done; reads try again.
        """

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Read features of distinct ids; never raises and never calls back synchronously.

        Errors for all ids: `ServiceUnusable` when there is no such service, it cannot be read
        by one id, or it lacks a requested feature; `FeaturesUnavailable` when the store cannot
        be read.
        """

    async def aclose(self) -> None:
        """Close connections and leave threads to end by themselves."""


def check_ids(ids: Sequence[object]) -> None:
    """Check that ids are integers or strings.

    Raises:
        InvalidEntityIds: some are not.
    """
    # Not isinstance: true is not an id, and equals 1 where results are found by id.
    if not _ID_TYPES.issuperset(map(type, ids)):
        wrong = [at for at, one in enumerate(ids) if type(one) not in _ID_TYPES]
        raise InvalidEntityIds(dict.fromkeys(wrong, "is neither an integer nor a string."))
