"""Plans of feature services that no store has, and rows for them."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from serving_gateway.features.entity_ids import ID_TYPES, JoinKey
from serving_gateway.features.entity_rows import View
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.service_plan import ServiceColumn, ServicePlan
from serving_gateway.features.types import LookupResult

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
KEY = JoinKey("id", ID_TYPES["INT64"])
SHOP = JoinKey("shop", ID_TYPES["STRING"])


def plan_of(**views: tuple[JoinKey, float, str]) -> ServicePlan:
    """A service with these views: key, TTL in seconds, and names of features, a letter each."""
    columns: dict[str, ServiceColumn] = {}
    for name, (key, ttl, features) in views.items():
        view = View(name, name, key, key.name, ttl)
        columns |= {feature: ServiceColumn(view, feature, "FLOAT") for feature in features}
    return ServicePlan(SimpleNamespace(online_store=SimpleNamespace(type="sqlite")), "s", columns)


def row(age: float | None, *values: Any) -> Row:
    """A row observed `age` seconds before noon; None: never."""
    return (0.0 if age is None else NOON.timestamp() - age), [*values]


def told(found: LookupResult) -> tuple[str, list[Any] | None, tuple[str, ...], float | None]:
    """Status, values, missing features, and age in seconds."""
    age = None if found.observed_at is None else NOON.timestamp() - found.observed_at
    return found.status.value, found.values, found.missing, age
