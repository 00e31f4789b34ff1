"""How a Feast feature service is read by one id per entity; imports nothing of Feast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from serving_gateway.features.entity_ids import ID_TYPES, IdType
from serving_gateway.features.entity_rows import PlannedRead, View, ViewRead
from serving_gateway.features.feast_redis import make_command
from serving_gateway.features.row_decoder import make_row_decoder
from serving_gateway.features.types import LookupRequest, ServiceUnusable

_COLUMN_TYPES: Final = frozenset({"FLOAT", "DOUBLE", "INT64", "INT32", "BOOL", "STRING", "BYTES"})
"""Value types that can be a column of a row; Python holds them as Feast's value does."""


class ServiceColumn(NamedTuple):
    """Where a feature of a service comes from: its name and type in a view."""

    view: View
    feature: str
    value_type: str


@dataclass(slots=True, eq=False)
class ServicePlan:
    """How a service is read; a name that several views have appears as `<view>__<name>` alone."""

    config: Any
    service: str
    id_type: IdType
    columns: Mapping[str, ServiceColumn]
    _reads: dict[tuple[str, ...], list[ViewRead]] = field(default_factory=dict)

    def sample(self) -> LookupRequest:
        """A harmless read of all views."""
        names = {column.view: name for name, column in self.columns.items()}.values()
        return LookupRequest(self.service, (*names,), (self.id_type.sample,))

    def has(self, names: tuple[str, ...]) -> bool:
        """Whether the service has these features."""
        return names in self._reads or self.columns.keys() >= {*names}

    def read(self, request: LookupRequest) -> PlannedRead:
        """How to read what is requested; `ServiceUnusable` where a feature is not there."""
        reads = self._reads.get(request.names)
        if reads is None:
            reads = self._reads[request.names] = self._plan_reads(request.names)
        ids, id_type = request.ids, self.id_type
        errors = id_type.invalid(ids, self.service)
        if errors:
            ids = [id_type.sample if at in errors else one for at, one in enumerate(ids)]
        return PlannedRead(self.config, request, id_type, reads, ids, {**errors})

    def _plan_reads(self, names: tuple[str, ...]) -> list[ViewRead]:
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ServiceUnusable(
                f"Feature service {self.service} has no feature {', '.join(missing)} that "
                f"a row can hold; it has {', '.join(sorted(self.columns))}."
            )
        by_view: dict[View, dict[int, ServiceColumn]] = {}
        for position, name in enumerate(names):
            column = self.columns[name]
            by_view.setdefault(column.view, {})[position] = column
        return [self._plan_read(view, wanted) for view, wanted in by_view.items()]

    def _plan_read(self, view: View, wanted: Mapping[int, ServiceColumn]) -> ViewRead:
        features = [column.feature for column in wanted.values()]
        command = make_command(self.config, view, self.id_type, features)
        decode = make_row_decoder([column.value_type for column in wanted.values()])
        return ViewRead(view, features, [*wanted], command, decode)


def make_plan(config: Any, service: Any, tables: Sequence[Any]) -> ServicePlan:
    """Plan the reads of a service, given its projected views.

    Raises `ServiceUnusable` where one id does not name a row of each view, or a view is computed
    on demand, pinned to a version or not served online.
    """
    keys: set[tuple[str, str]] = set()
    columns: dict[str, ServiceColumn] = {}
    by_feature: dict[str, list[ServiceColumn]] = {}
    for table in tables:
        name, id_type = _join_key(service.name, table)
        keys.add((table.projection.join_key_map.get(name, name), id_type))
        view = View(table, name, table.ttl.total_seconds() if table.ttl else 0.0)
        for feature in table.projection.features:
            column = ServiceColumn(view, feature.name, feature.dtype.to_value_type().name)
            if column.value_type in _COLUMN_TYPES:
                columns[f"{table.projection.name_to_use()}__{feature.name}"] = column
                by_feature.setdefault(feature.name, []).append(column)
    if len(keys) != 1:
        listed = ", ".join(sorted(f"{name} ({kind})" for name, kind in keys)) or "none"
        raise ServiceUnusable(
            f"Feature service {service.name} must be read by one join key for all of its views; "
            f"it has: {listed}."
        )
    columns.update((name, found[0]) for name, found in by_feature.items() if len(found) == 1)
    [(_, id_type)] = keys
    return ServicePlan(config, service.name, ID_TYPES[id_type], columns)


def _join_key(service: str, table: Any) -> tuple[str, str]:
    """The join key of one view as it is stored, and its value type."""
    entities = getattr(table, "entity_columns", None)
    if entities is None:
        problem = "is computed on demand; only stored features are read"
    elif getattr(table.projection, "version_tag", None) is not None:
        problem = "is pinned to a version"
    elif not getattr(table, "enabled", True) or not table.online:
        problem = "is not served online"
    elif len(entities) != 1:
        problem = f"has {len(entities)} join keys, not one"
    elif (id_type := entities[0].dtype.to_value_type().name) not in ID_TYPES:
        problem = f"has ids of type {id_type}: not {', '.join(ID_TYPES)}"
    else:
        return entities[0].name, id_type
    raise ServiceUnusable(
        f"Feature service {service} cannot be read: its view {table.name} {problem}."
    )
