"""How a Feast feature service is read by one id per entity.

Knows the shape of Feast's objects but imports nothing of it: they are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from serving_gateway.errors import GatewayError
from serving_gateway.features.entity_ids import ID_TYPES, IdType
from serving_gateway.features.entity_rows import Row, ViewRows, judge_rows, make_row_decoder
from serving_gateway.features.redis_layout import HashLayout, find_layout
from serving_gateway.features.types import EntityOutcome, LookupRequest, ServiceUnusable

_COLUMN_TYPES: Final = frozenset({"FLOAT", "DOUBLE", "INT64", "INT32", "BOOL", "STRING", "BYTES"})
"""Value types that can be a column of a row; Python holds them as Feast's value does."""


class View(msgspec.Struct, eq=False):
    """One feature view of a service."""

    table: Any
    """Feast's own object, which its online stores want."""
    join_key: str
    """As it is stored; a mapped one has another name for callers."""
    ttl_seconds: float
    """Age after which values are expired; 0: never."""
    layout: HashLayout | None = None
    """Where Redis holds it; None for other stores."""


class ServiceColumn(NamedTuple):
    """Where a feature of a service comes from."""

    view: View
    feature: str
    """Its name in that view."""
    value_type: str


class ViewRead:
    """What to read of one view.

    Attributes:
        features: their names in the view.
        positions: of each among the values of a result.
        command: where the layout is known: Redis's command for an entity.
        decode: what its reply means.
    """

    command: Callable[[int | str], bytes]
    decode: Callable[[Sequence[bytes | None]], Row]

    def __init__(self, view: View, wanted: Mapping[int, ServiceColumn]) -> None:
        self.view = view
        self.features = [column.feature for column in wanted.values()]
        self.positions = (*wanted,)
        if view.layout is not None:
            self.command = view.layout.command_maker(self.features)
            self.decode = make_row_decoder([column.value_type for column in wanted.values()])


class PlannedRead(NamedTuple):
    """A request, and how it is read."""

    request: LookupRequest
    id_type: IdType
    reads: Sequence[ViewRead]
    ids: Sequence[int | str]
    """Those of the request, with a harmless one instead of each that is invalid."""
    errors: dict[int, GatewayError]
    """Of single entities, by position."""

    def outcomes(self, rows: Sequence[Sequence[Row]]) -> list[EntityOutcome]:
        """What rows of each view, one for each id, mean."""
        views = [
            ViewRows(read.view.ttl_seconds, read.positions, own)
            for read, own in zip(self.reads, rows, strict=True)
        ]
        found: list[EntityOutcome] = [*judge_rows(self.request.names, self.request.nullable, views)]
        for at, error in self.errors.items():
            found[at] = error
        return found


class ServicePlan:
    """How a feature service is read.

    Args:
        service: its name.
        id_type: of its entity.
        columns: by name; a name that several views have appears with the prefix `<view>__` alone.
    """

    def __init__(self, service: str, id_type: IdType, columns: Mapping[str, ServiceColumn]) -> None:
        self.service = service
        self.id_type = id_type
        self.has_layouts = bool(columns) and all(one.view.layout for one in columns.values())
        """Whether it is known where Redis holds each view."""
        self._columns = columns
        self._reads: dict[tuple[str, ...], list[ViewRead]] = {}

    def sample(self) -> LookupRequest:
        """A harmless read of all views."""
        names = {column.view: name for name, column in self._columns.items()}.values()
        return LookupRequest(self.service, (*names,), (self.id_type.sample,))

    def has(self, names: tuple[str, ...]) -> bool:
        """Whether the service has these features."""
        return names in self._reads or self._columns.keys() >= {*names}

    def read(self, request: LookupRequest) -> PlannedRead:
        """How to read what is requested; views without a part in it are left out.

        Raises:
            ServiceUnusable: the service does not have a feature.
        """
        reads = self._reads.get(request.names)
        if reads is None:
            reads = self._reads[request.names] = self._plan_reads(request.names)
        ids = request.ids
        errors = self.id_type.invalid(ids, self.service)
        if errors:
            ids = [self.id_type.sample if at in errors else one for at, one in enumerate(ids)]
        return PlannedRead(request, self.id_type, reads, ids, {**errors})

    def _plan_reads(self, names: tuple[str, ...]) -> list[ViewRead]:
        missing = [name for name in names if name not in self._columns]
        if missing:
            raise ServiceUnusable(
                f"Feature service {self.service} has no feature {', '.join(missing)} that "
                f"a row can hold; it has {', '.join(sorted(self._columns))}."
            )
        by_view: dict[View, dict[int, ServiceColumn]] = {}
        for position, name in enumerate(names):
            column = self._columns[name]
            by_view.setdefault(column.view, {})[position] = column
        return [ViewRead(view, wanted) for view, wanted in by_view.items()]


def make_plan(config: Any, service: Any, tables: Sequence[Any]) -> ServicePlan:
    """Plan the reads of a service, given its projected views in the order of its projections.

    Raises:
        ServiceUnusable: one id does not name a row of each view, or a view is computed on
            demand, pinned to a version or not served online.
    """
    keys: set[tuple[str, str]] = set()
    columns: dict[str, ServiceColumn] = {}
    by_feature: dict[str, list[ServiceColumn]] = {}
    for table in tables:
        name, id_type = _join_key(service.name, table)
        keys.add((table.projection.join_key_map.get(name, name), id_type))
        types = {one.name: one.dtype.to_value_type().name for one in table.projection.features}
        usable = [feature for feature, kind in types.items() if kind in _COLUMN_TYPES]
        ttl = table.ttl.total_seconds() if table.ttl else 0.0
        layout = find_layout(config, table, name, ID_TYPES[id_type], usable)
        view = View(table, name, ttl, layout)
        for feature in usable:
            column = ServiceColumn(view, feature, types[feature])
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
    return ServicePlan(service.name, ID_TYPES[id_type], columns)


def _join_key(service: str, table: Any) -> tuple[str, str]:
    """The join key of one view as it is stored, and its value type."""
    entities = getattr(table, "entity_columns", None)
    problem = ""
    if entities is None:
        problem = "is computed on demand; only stored features are read"
    elif getattr(table.projection, "version_tag", None) is not None:
        problem = "is pinned to a version"
    elif not getattr(table, "enabled", True) or not table.online:
        problem = "is not served online"
    elif len(entities) != 1:
        problem = f"has {len(entities)} join keys, not one"
    elif (id_type := entities[0].dtype.to_value_type().name) in ID_TYPES:
        return entities[0].name, id_type
    else:
        problem = f"has ids of type {id_type}: not {', '.join(ID_TYPES)}"
    raise ServiceUnusable(
        f"Feature service {service} cannot be read: its view {table.name} {problem}."
    )
