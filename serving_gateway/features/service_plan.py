"""How a Feast feature service is read by one id per entity.

Knows the shape of Feast's objects but imports nothing of it: they are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from serving_gateway.errors import FeaturesUnavailable
from serving_gateway.features.feast_values import make_row_decoder
from serving_gateway.features.redis_layout import HashLayout
from serving_gateway.features.types import InvalidEntityIds, ServiceUnusable

ID_FIELDS: Final = {"INT64": "int64_val", "INT32": "int32_val", "STRING": "string_val"}
"""By value type of an entity: the field of Feast's value that holds an id."""

_ID_BITS: Final = {"INT64": 63, "INT32": 31}

_COLUMN_TYPES: Final = frozenset({"FLOAT", "DOUBLE", "INT64", "INT32", "BOOL", "STRING", "BYTES"})
"""Value types that can be a column of a row; Python holds them as Feast's value does."""


Row: TypeAlias = tuple[float | None, list[Any] | None]
"""One entity in one view: when it was observed (seconds since the epoch) and the plain values of
the read's features. Redis reports nulls of the epoch for an entity that it does not have."""


def _not_in_redis(*_: object) -> NoReturn:
    raise FeaturesUnavailable("The layout of this view in Redis is unknown.")


class View(msgspec.Struct, frozen=True):
    """One feature view of a service."""

    table: Any
    """Feast's own object, which its online stores want."""
    join_key: str
    """As it is stored; a mapped one has another name for callers."""
    ttl_seconds: float
    """Age after which values are expired; 0: never."""
    features: tuple[str, ...] = ()
    """The features that can be a column."""
    layout: HashLayout | None = None
    """Where Redis holds it; None for other stores."""


class ServiceColumn(msgspec.Struct, frozen=True):
    """Where a feature of a service comes from."""

    view: int
    """Position among the service's views."""
    feature: str
    """Its name in that view."""
    value_type: str


class ViewRead(msgspec.Struct, frozen=True):
    """What to read of one view: the features, and the position of each in the result."""

    view: View
    features: tuple[str, ...]
    positions: tuple[int, ...]
    command: Callable[[int | str], bytes] = _not_in_redis
    """Redis's command for an entity."""
    decode: Callable[[Sequence[bytes | None]], Row] = _not_in_redis
    """What its reply means."""


class ServicePlan:
    """How a feature service is read.

    Args:
        service: its name.
        views: what it reads.
        id_type: value type of the entity's id, of `ID_FIELDS`.
        columns: by name; a name that several views have appears with the prefix `<view>__` alone.
    """

    def __init__(
        self,
        service: str,
        views: Sequence[View],
        id_type: str,
        columns: Mapping[str, ServiceColumn],
    ) -> None:
        self.service = service
        self.id_type = id_type
        self.views = views
        self.has_layouts = all(view.layout or not view.features for view in views)
        """Whether it is known where Redis holds each view that has columns."""
        self._columns = columns
        self._reads: dict[tuple[str, ...], tuple[ViewRead, ...]] = {}

    def with_views(self, views: Sequence[View]) -> ServicePlan:
        """The same plan on views of which more is known."""
        return ServicePlan(self.service, views, self.id_type, self._columns)

    @property
    def sample_names(self) -> tuple[str, ...]:
        """One feature of each view."""
        return tuple({column.view: name for name, column in self._columns.items()}.values())

    @property
    def sample_id(self) -> int | str:
        """An id that an entity could have."""
        return 0 if self.id_type in _ID_BITS else ""

    def missing(self, names: Sequence[str]) -> list[str]:
        """The names that the service does not have."""
        return [name for name in names if name not in self._columns]

    def reads(self, names: tuple[str, ...]) -> tuple[ViewRead, ...]:
        """What to read for these names; views that have none of them are left out.

        Raises:
            ServiceUnusable: the service does not have a name.
        """
        reads = self._reads.get(names)
        if reads is None:
            reads = self._reads[names] = self._plan_reads(names)
        return reads

    def _plan_reads(self, names: tuple[str, ...]) -> tuple[ViewRead, ...]:
        missing = self.missing(names)
        if missing:
            raise ServiceUnusable(
                f"Feature service {self.service} has no feature {', '.join(missing)} that "
                f"a row can hold; it has {', '.join(sorted(self._columns))}."
            )
        by_view: dict[int, list[tuple[ServiceColumn, int]]] = {}
        for position, name in enumerate(names):
            column = self._columns[name]
            by_view.setdefault(column.view, []).append((column, position))
        return tuple(_view_read(self.views[view], own) for view, own in by_view.items())

    def invalid_ids(self, ids: Sequence[int | str]) -> dict[int, InvalidEntityIds]:
        """The errors of ids that cannot be the entity's, by position."""
        bits = _ID_BITS.get(self.id_type)
        if bits is None:
            what = "a string"
            wrong = [at for at, one in enumerate(ids) if not _is_text(one)]
        else:
            what = f"an integer of {bits + 1} bits"
            low, end = -(1 << bits), 1 << bits
            wrong = [
                at for at, one in enumerate(ids) if isinstance(one, str) or not low <= one < end
            ]
        why = f"must be {what}: so it is in feature service {self.service}."
        return {at: InvalidEntityIds({0: why}) for at in wrong}

    def entity_keys(self, join_key: str, ids: Sequence[int | str]) -> list[Any]:
        """Feast's keys of these ids."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        value: Any = Value
        field, joined = ID_FIELDS[self.id_type], [join_key]
        return [EntityKey(join_keys=joined, entity_values=[value(**{field: one})]) for one in ids]


def _view_read(view: View, wanted: Sequence[tuple[ServiceColumn, int]]) -> ViewRead:
    features = tuple(column.feature for column, _ in wanted)
    positions = tuple(position for _, position in wanted)
    if view.layout is None:
        return ViewRead(view, features, positions)
    decode = make_row_decoder([column.value_type for column, _ in wanted])
    return ViewRead(view, features, positions, view.layout.command_maker(features), decode)


def make_plan(service: Any, tables: Sequence[Any]) -> ServicePlan:
    """Plan the reads of a service, given its projected views in the order of its projections.

    Raises:
        ServiceUnusable: one id does not name a row of each view, or a view is computed on
            demand, pinned to a version or not served online.
    """
    views: list[View] = []
    keys: set[tuple[str, str]] = set()
    columns: dict[str, ServiceColumn] = {}
    by_feature: dict[str, list[ServiceColumn]] = {}
    for index, table in enumerate(tables):
        name, id_type = _join_key(service.name, table)
        keys.add((table.projection.join_key_map.get(name, name), id_type))
        usable = {
            feature.name: ServiceColumn(index, feature.name, value_type)
            for feature in table.projection.features
            if (value_type := feature.dtype.to_value_type().name) in _COLUMN_TYPES
        }
        ttl = table.ttl.total_seconds() if table.ttl else 0.0
        views.append(View(table, name, ttl, tuple(usable)))
        for feature, column in usable.items():
            columns[f"{table.projection.name_to_use()}__{feature}"] = column
            by_feature.setdefault(feature, []).append(column)
    if len(keys) != 1:
        listed = ", ".join(sorted(f"{name} ({kind})" for name, kind in keys)) or "none"
        raise ServiceUnusable(
            f"Feature service {service.name} must be read by one join key for all of its views; "
            f"it has: {listed}."
        )
    columns.update((name, found[0]) for name, found in by_feature.items() if len(found) == 1)
    [(_, id_type)] = keys
    return ServicePlan(service.name, views, id_type, columns)


def _join_key(service: str, table: Any) -> tuple[str, str]:
    """The join key of one view as it is stored, and its value type."""
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
    id_type = entities[0].dtype.to_value_type().name
    if id_type not in ID_FIELDS:
        raise ServiceUnusable(f"{refused} has ids of type {id_type}: not {', '.join(ID_FIELDS)}.")
    return entities[0].name, id_type


def _is_text(one: int | str) -> bool:
    """Whether it is a string that UTF-8 can encode: half of a surrogate pair cannot be."""
    return isinstance(one, str) and (
        one.isascii() or not any("\ud800" <= char <= "\udfff" for char in one)
    )
