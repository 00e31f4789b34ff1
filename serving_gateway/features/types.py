"""What an online store knows of an entity, and what is asked of any such store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from serving_gateway.errors import EntityUnusable, FeaturesUnavailable


class Status(StrEnum):
    """What the store knows of an entity."""

    FOUND = "found"
    UNKNOWN = "unknown"
    """No such entity."""
    EXPIRED = "expired"
    """Older than its feature view lets values become (TTL; 0 is for ever)."""
    INCOMPLETE = "incomplete"
    """Known, but some of the features are null and may not be."""


class Found(msgspec.Struct, frozen=True):
    """One entity's features. Shared by all that asked for it at the same time: never change it."""

    status: Status
    values: list[Any] | None
    """In the order of the names asked for, None where null; no list unless `FOUND`."""
    missing: tuple[str, ...] = ()
    """The names without a value that may be used."""
    observed: datetime | None = None
    """When the values were observed, in UTC; the oldest of several views."""

    @property
    def event_timestamp(self) -> str | None:
        """When the values were observed, as RFC 3339."""
        # Written down only where somebody reads it, which for values that are found nobody does.
        return None if self.observed is None else self.observed.isoformat().replace("+00:00", "Z")


class InvalidEntityIds(EntityUnusable):
    """Ids that cannot be an entity's.

    Args:
        wrong: by position in what was asked, what is wrong, to follow `entity_ids[i]`.
    """

    default_code = "wrong_type"

    def __init__(self, wrong: Mapping[int, str]) -> None:
        first = min(wrong)
        place = f"entity_ids[{first}]"
        super().__init__(f"{place} {wrong[first]}", field=place)
        self.wrong = wrong


class ServiceUnusable(FeaturesUnavailable):
    """The store is there, but this feature service is not, or not with what is asked of it."""

    default_code = "feature_service_unusable"


class FeatureStore(Protocol):
    """Where features are read."""

    async def prepare(self, *services: str) -> None:
        """Do all that can be done before these services are read for the first time.

        Returns also when it could not be done; reads try again.
        """

    async def read(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str] = frozenset(),
    ) -> list[Found]:
        """Read these features of a feature service: one `Found` per id, in that order.

        Those named in `nullable` may be null.

        Raises:
            InvalidEntityIds: ids of another type than the entity's.
            ServiceUnusable: there is no such service, none that can be read by one id, or it
                has no feature of such a name.
            FeaturesUnavailable: the store cannot be asked.
        """

    async def aclose(self) -> None:
        """Let go of connections and threads."""


def check_ids(ids: Sequence[object]) -> None:
    """Check that ids are integers or strings.

    Raises:
        InvalidEntityIds: some are not.
    """
    # Not isinstance: true is no id, and equals 1 where answers are found by id.
    wrong = [at for at, one in enumerate(ids) if type(one) is not int and type(one) is not str]
    if wrong:
        raise InvalidEntityIds(dict.fromkeys(wrong, "is neither an integer nor a string."))


LookupResult = Found
