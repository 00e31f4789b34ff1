"""How a Feast feature service is read by the ids of its keys; imports nothing from Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

from serving_gateway.features.entity_ids import ID_TYPES, ServiceKey
from serving_gateway.features.entity_rows import KeyRead, View, ViewRead
from serving_gateway.features.feast_redis import make_hashes
from serving_gateway.features.planned_read import Join, KeyedIds, PlannedRead
from serving_gateway.features.types import KeyMismatch, LookupRequest, ServiceUnusable

_COLUMN_TYPES: Final = frozenset({"FLOAT", "DOUBLE", "INT64", "INT32", "BOOL", "STRING", "BYTES"})
"""Value types that can be a column of a row; Python holds them as Feast's value does."""


class ServiceColumn(NamedTuple):
    """Where a feature of a service comes from: its name and type in a view."""

    view: View
    feature: str
    value_type: str


class ServiceReads(NamedTuple):
    """How some of a service's features are read."""

    keys: Sequence[KeyRead]
    join: Join
    is_blocking: bool
    """Whether Feast reads them."""


@dataclass(slots=True, eq=False)
class ServicePlan:
    """How a service is read; a name that several views share appears only as `<view>__<name>`."""

    config: Any
    service: str
    columns: Mapping[str, ServiceColumn]
    _reads: dict[tuple[tuple[str, ...], tuple[str, ...]], ServiceReads] = field(
        default_factory=dict
    )
    """Plans made so far, by names and keys."""

    def sample(self) -> LookupRequest:
        """A harmless read of all views."""
        names = {column.view: name for name, column in self.columns.items()}.values()
        keys = {column.view.key: None for column in self.columns.values()}
        ids = tuple([key.id_type.sample for key in keys])
        entity = ids[0] if len(ids) == 1 else ids
        return LookupRequest(
            self.service, (*names,), (entity,), keys=tuple([key.name for key in keys])
        )

    def read(self, request: LookupRequest) -> PlannedRead:
        """Plan the read of a request.

        Raises `ServiceUnusable` where a feature is not there, or is read by other keys.
        """
        reads = self._reads.get((request.names, request.keys))
        if reads is None:
            reads = self._reads[request.names, request.keys] = self._plan_reads(request)
        if len(request.keys) < 2:
            only = self._keyed(reads.keys[0], request.ids)
            return PlannedRead(self.config, request, [only], None, reads.is_blocking)
        keyed = []
        for read in reads.keys:
            at = request.keys.index(read.key.name)
            column = [cast(tuple[int | str | None, ...], entity)[at] for entity in request.ids]
            keyed.append(self._distinct(read, column))
        return PlannedRead(self.config, request, keyed, reads.join, reads.is_blocking)

    def _distinct(self, read: KeyRead, column: Sequence[int | str | None]) -> KeyedIds:
        """The ids of one key for all entities, without duplicates."""
        distinct = dict.fromkeys(column)
        if len(distinct) == len(column) and None not in distinct:
            return self._keyed(read, column)
        ids = [entity_id for entity_id in distinct if entity_id is not None]
        places: dict[int | str | None, int | None] = {None: None, **dict(zip(ids, count()))}
        return self._keyed(read, ids, [places[entity_id] for entity_id in column])

    def _keyed(
        self, read: KeyRead, ids: Sequence[Any], places: Sequence[int | None] | None = None
    ) -> KeyedIds:
        id_type = read.key.id_type
        errors = id_type.find_errors(ids, read.key.name, self.service)
        if errors:
            ids = [id_type.sample if at in errors else value for at, value in enumerate(ids)]
        return KeyedIds(read, ids, {**errors}, places)

    def _plan_reads(self, request: LookupRequest) -> ServiceReads:
        missing = [name for name in request.names if name not in self.columns]
        if missing:
            raise ServiceUnusable(
                f"Feature service {self.service} has no feature {', '.join(missing)} that "
                f"a row can hold; it has {', '.join(sorted(self.columns))}."
            )
        by_key: dict[ServiceKey, list[str]] = {}
        for name in request.names:
            by_key.setdefault(self.columns[name].view.key, []).append(name)
        _require_keys(request, tuple([key.name for key in by_key]))
        keys = [self._plan_key(key, tuple(own)) for key, own in by_key.items()]
        blocking = any(key.hashes is None for key in keys)
        return ServiceReads(keys, _join(request.names, keys), blocking)

    def _plan_key(self, key: ServiceKey, names: tuple[str, ...]) -> KeyRead:
        by_view: dict[View, dict[int, str]] = {}
        for position, name in enumerate(names):
            by_view.setdefault(self.columns[name].view, {})[position] = name
        views = [self._plan_view(view, wanted) for view, wanted in by_view.items()]
        return KeyRead(key, names, views, make_hashes(self.config, key.id_type, views))

    def _plan_view(self, view: View, wanted: Mapping[int, str]) -> ViewRead:
        columns = [self.columns[name] for name in wanted.values()]
        features, types = zip(*[(col.feature, col.value_type) for col in columns], strict=True)
        return ViewRead(view, features, types, (*wanted.values(),), [*wanted])


def _require_keys(request: LookupRequest, needed: tuple[str, ...]) -> None:
    """Refuse (`KeyMismatch`) a request that does not name the keys by which it is read."""
    if {*request.keys} >= {*needed} or (not request.keys and len(needed) == 1):
        return
    named = f", not by {', '.join(request.keys)}" if request.keys else ""
    raise KeyMismatch(
        f"Feature service {request.service} is read by {', '.join(needed)}{named}.", needed
    )


def _join(names: tuple[str, ...], reads: Sequence[KeyRead]) -> Join:
    stored = [name for read in reads for name in read.names]
    views = tuple([view.names for read in reads for view in read.views])
    places = dict(zip(stored, count()))
    in_order = stored == [*names]
    return Join(views, None if in_order else itemgetter(*[places[name] for name in names]))


def make_plan(config: Any, service: Any, tables: Sequence[Any]) -> ServicePlan:
    """Plan the reads of a service, given its projected views.

    Raises `ServiceUnusable` where one id does not name a row of a view, a key has several types,
    or a view is computed on demand, pinned to a version or not served online.
    """
    keys: dict[str, ServiceKey] = {}
    columns: dict[str, ServiceColumn] = {}
    by_feature: dict[str, list[ServiceColumn]] = {}
    for table in tables:
        view = _view(service.name, table)
        if keys.setdefault(view.key.name, view.key) != view.key:
            raise ServiceUnusable(
                f"Feature service {service.name} cannot be read: the ids of {view.key.name} have "
                "several types in its views."
            )
        for feature in table.projection.features:
            column = ServiceColumn(view, feature.name, feature.dtype.to_value_type().name)
            if column.value_type in _COLUMN_TYPES:
                columns[f"{view.name}__{feature.name}"] = column
                by_feature.setdefault(feature.name, []).append(column)
    if not keys:
        raise ServiceUnusable(f"Feature service {service.name} has no views.")
    columns.update((name, found[0]) for name, found in by_feature.items() if len(found) == 1)
    return ServicePlan(config, service.name, columns)


def _view(service: str, table: Any) -> View:
    """Describe a view that is read by one id."""
    entities = getattr(table, "entity_columns", None)
    projection = table.projection
    if entities is None:
        problem = "is computed on demand; only stored features are read"
    elif getattr(projection, "version_tag", None) is not None:
        problem = "is pinned to a version"
    elif not getattr(table, "enabled", True) or not table.online:
        problem = "is not served online"
    elif len(entities) != 1:
        problem = f"has {len(entities)} join keys, not one"
    elif (id_type := entities[0].dtype.to_value_type().name) not in ID_TYPES:
        problem = f"has ids of type {id_type}: not {', '.join(ID_TYPES)}"
    else:
        stored = entities[0].name
        key = ServiceKey(projection.join_key_map.get(stored, stored), ID_TYPES[id_type])
        ttl = table.ttl.total_seconds() if table.ttl else 0.0
        return View(projection.name_to_use(), table, key, stored, ttl)
    raise ServiceUnusable(
        f"Feature service {service} cannot be read: its view {table.name} {problem}."
    )
