"""How a Feast feature service is read by one id per entity, and what the answers mean.

Knows the shape of Feast's objects but imports nothing of it: they are handed in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from serving_gateway.features.types import Found, InvalidEntityIds, ServiceUnusable, Status

_ID_FIELDS: Final = {"INT64": "int64_val", "INT32": "int32_val", "STRING": "string_val"}
"""By value type of an entity: the field of Feast's value that holds an id."""

_ID_BITS: Final = {"INT64": 63, "INT32": 31}

_COLUMN_TYPES: Final = frozenset({"FLOAT", "DOUBLE", "INT64", "INT32", "BOOL", "STRING", "BYTES"})
"""Value types that can be a column of a row; Python holds them as Feast's value does."""

Row = tuple[datetime | None, Mapping[str, Any] | None]
"""What an online store answers for one key of one view: event timestamp, values by feature."""


class Question(msgspec.Struct, frozen=True):
    """What is asked of a feature service."""

    service: str
    names: tuple[str, ...]
    ids: Sequence[int | str]
    nullable: frozenset[str] = frozenset()
    """The names whose values may be null."""


class View(msgspec.Struct, frozen=True):
    """One feature view of a service."""

    table: Any
    """Feast's own object, which its online stores want."""
    join_key: str
    """As it is stored; a mapped one has another name for callers."""
    ttl_seconds: float
    """Age after which values are expired; 0: never."""


class Read(msgspec.Struct, frozen=True):
    """What to read of one view: the features, and where each stands in the answer."""

    view: View
    features: tuple[str, ...]
    places: tuple[int, ...]


class Plan:
    """A feature service, understood.

    Args:
        service: its name.
        views: what it reads.
        id_type: value type of the entity's id, of `_ID_FIELDS`.
        columns: by name, the view (by position in `views`) and the feature's name there; a
            name that several views have appears with the prefix `<view>__` alone.
    """

    def __init__(
        self,
        service: str,
        views: Sequence[View],
        id_type: str,
        columns: Mapping[str, tuple[int, str]],
    ) -> None:
        self.service = service
        self.id_type = id_type
        self._views = views
        self._columns = columns
        self._reads: dict[tuple[str, ...], tuple[Read, ...]] = {}

    def sample(self) -> Question:
        """What reads one feature of each view, of an entity that hardly exists."""
        names = {index: name for name, (index, _) in self._columns.items()}
        one: int | str = 0 if self.id_type in _ID_BITS else ""
        return Question(self.service, tuple(names.values()), (one,))

    def lacks(self, names: Sequence[str]) -> list[str]:
        """The names that the service does not have."""
        return [name for name in names if name not in self._columns]

    def reads(self, names: tuple[str, ...]) -> tuple[Read, ...]:
        """What to read for these names; views that have none of them are left out.

        Raises:
            ServiceUnusable: the service does not have a name.
        """
        found = self._reads.get(names)
        if found is None:
            lacking = self.lacks(names)
            if lacking:
                raise ServiceUnusable(
                    f"Feature service {self.service} has no feature {', '.join(lacking)} that "
                    f"a row can hold; it has {', '.join(sorted(self._columns))}."
                )
            by_view: dict[int, list[tuple[str, int]]] = {}
            for place, name in enumerate(names):
                index, feature = self._columns[name]
                by_view.setdefault(index, []).append((feature, place))
            found = self._reads[names] = tuple(
                Read(self._views[index], *zip(*wanted, strict=True))
                for index, wanted in by_view.items()
            )
        return found

    def check(self, ids: Sequence[int | str]) -> None:
        """Check that ids can be those of the entity.

        Raises:
            InvalidEntityIds: some cannot.
        """
        bits = _ID_BITS.get(self.id_type)
        if bits is None:
            what = "a string"
            wrong = [at for at, one in enumerate(ids) if not _storable(one)]
        else:
            what = f"an integer of {bits + 1} bits"
            low, end = -(1 << bits), 1 << bits
            wrong = [
                at for at, one in enumerate(ids) if isinstance(one, str) or not low <= one < end
            ]
        if wrong:
            why = f"must be {what}: so it is in feature service {self.service}."
            raise InvalidEntityIds(dict.fromkeys(wrong, why))

    def keys(self, join_key: str, ids: Sequence[int | str], key: Any, value: Any) -> list[Any]:
        """Feast's keys of these ids, made by its classes `key` (EntityKey) and `value` (Value)."""
        field = _ID_FIELDS[self.id_type]
        joined = [join_key]
        return [key(join_keys=joined, entity_values=[value(**{field: one})]) for one in ids]


def make_plan(service: Any, views: Sequence[Any]) -> Plan:
    """Understand a service and, in the order of its projections, its projected views.

    Raises:
        ServiceUnusable: one id does not name a row of each view, or there is more to it than
            reading.
    """
    found: list[View] = []
    asked_keys: set[tuple[str, str]] = set()
    columns: dict[str, tuple[int, str]] = {}
    plain: dict[str, list[tuple[int, str]]] = {}
    for index, table in enumerate(views):
        view, asked_key = _view(service.name, table)
        found.append(view)
        asked_keys.add(asked_key)
        for feature in table.projection.features:
            if feature.dtype.to_value_type().name not in _COLUMN_TYPES:
                continue
            column = (index, feature.name)
            columns[f"{table.projection.name_to_use()}__{feature.name}"] = column
            plain.setdefault(feature.name, []).append(column)
    if len(asked_keys) != 1:
        keys = ", ".join(sorted(f"{name} ({kind})" for name, kind in asked_keys)) or "none"
        raise ServiceUnusable(
            f"Feature service {service.name} must be read by one join key for all of its views; "
            f"it has: {keys}."
        )
    columns.update((name, one[0]) for name, one in plain.items() if len(one) == 1)
    [(_, id_type)] = asked_keys
    return Plan(service.name, found, id_type, columns)


def _view(service: str, table: Any) -> tuple[View, tuple[str, str]]:
    """One projected view, and the join key (name for callers, value type) that it is read by."""
    refused = f"Feature service {service} cannot be read: its view {table.name}"
    entities = getattr(table, "entity_columns", None)
    if entities is None:
        raise ServiceUnusable(f"{refused} is computed on demand; only stored features are read.")
    if getattr(table.projection, "version_tag", None) is not None:
        raise ServiceUnusable(f"{refused} is pinned to a version.")
    if not getattr(table, "enabled", True) or not table.online:
        raise ServiceUnusable(f"{refused} is not served online.")
    if len(entities) != 1:
        raise ServiceUnusable(f"{refused} has {len(entities)} join keys, not one.")
    stored, id_type = entities[0].name, entities[0].dtype.to_value_type().name
    if id_type not in _ID_FIELDS:
        raise ServiceUnusable(f"{refused} has ids of type {id_type}: not {', '.join(_ID_FIELDS)}.")
    ttl = table.ttl.total_seconds() if table.ttl else 0.0
    asked = table.projection.join_key_map.get(stored, stored)
    return View(table, stored, ttl), (asked, id_type)


def _storable(one: int | str) -> bool:
    """Whether it is a string that UTF-8 can write: half of a surrogate pair cannot."""
    return isinstance(one, str) and (
        one.isascii() or not any("\ud800" <= char <= "\udfff" for char in one)
    )


def assemble(
    question: Question,
    reads: Sequence[Read],
    answers: Sequence[Sequence[Row]],
    now: float | None = None,
) -> list[Found]:
    """Join the answers of all views by position, and judge each entity.

    Args:
        question: what was asked for.
        reads: what was read, view by view.
        answers: per view, one row for each id.
        now: seconds since the epoch, to tell an age by; None takes the clock's.
    """
    at = time.time() if now is None else now
    return [_judge(question, reads, rows, at) for rows in zip(*answers, strict=True)]


def _judge(question: Question, reads: Sequence[Read], rows: Sequence[Row], at: float) -> Found:
    names = question.names
    values: list[Any] = [None] * len(names)
    oldest: datetime | None = None
    known = expired = False
    for read, (stamp, row) in zip(reads, rows, strict=True):
        some = False
        if row:
            for feature, place in zip(read.features, read.places, strict=True):
                value = values[place] = _value(row.get(feature))
                some = some or value is not None
        # For a key that it does not have, Redis answers nulls of the epoch.
        observed = _utc(stamp)
        seconds = 0.0 if observed is None else observed.timestamp()
        if observed is None or (not some and seconds == 0):
            continue
        known = True
        oldest = observed if oldest is None else min(oldest, observed)
        if 0 < read.view.ttl_seconds < at - seconds:
            expired = True
            for place in read.places:
                values[place] = None
    if not known:
        return Found(Status.UNKNOWN, None, names)
    if None not in values:
        return Found(Status.FOUND, values, (), oldest)
    missing = tuple([name for name, value in zip(names, values, strict=True) if value is None])
    if expired:
        # What is too old is not the same as what nobody knows, also where that may be null.
        return Found(Status.EXPIRED, None, missing, oldest)
    missing = tuple([name for name in missing if name not in question.nullable])
    if not missing:
        return Found(Status.FOUND, values, (), oldest)
    return Found(Status.INCOMPLETE, None, missing, oldest)


def _utc(stamp: datetime | None) -> datetime | None:
    """A store's event timestamp: one without a zone is in UTC."""
    if stamp is None:
        return None
    if stamp.tzinfo is UTC:
        return stamp
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _value(value: Any) -> Any:
    """What Feast's value holds; None for null, for NaN (pandas's null) and for the empty text."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    plain = getattr(value, kind)
    if plain == "":
        return None
    return plain if plain == plain else None  # noqa: PLR0124
