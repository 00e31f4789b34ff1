"""Plans of feature services that no store has, and rows for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from serving_gateway.errors import GatewayError
from serving_gateway.features.entity_ids import ID_TYPES, ServiceKey
from serving_gateway.features.entity_rows import View, ViewRead
from serving_gateway.features.planned_read import PlannedRead
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.service_plan import ServiceColumn, ServicePlan
from serving_gateway.features.types import EntityOutcome, LookupRequest, LookupResult, ReadDone

NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
KEY = ServiceKey("id", ID_TYPES["INT64"])
SHOP = ServiceKey("shop", ID_TYPES["STRING"])


StoredRows = Mapping[str, Mapping[Any, Row]]
"""By view and id: a row of all features of the view."""


def plan_of(**views: tuple[ServiceKey, float, str]) -> ServicePlan:
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


def outcomes(read: PlannedRead, rows: StoredRows) -> list[Any]:
    """The outcomes of a read, given what each view has; the first of its features are read."""

    def found(view: ViewRead, one: Any) -> Row:
        observed_at, values = rows[view.view.name].get(one, row(None))
        return observed_at, values and values[: len(view.features)]

    return [
        *read.outcomes(
            [
                [[found(view, one) for one in own.ids] for view in own.read.views]
                for own in read.keys
            ]
        )
    ]


class MemoryStore:
    """A feature store of one service in memory; `asked` are its reads."""

    def __init__(self, plan: ServicePlan, rows: StoredRows) -> None:
        self._plan, self._rows = plan, rows
        self.asked: list[LookupRequest] = []
        self.fails: GatewayError | None = None

    async def prepare(self, *services: str) -> None:
        """Nothing has to be opened."""

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        """Answer on the next turn of the loop."""
        self.asked.append(request)
        outcome: list[EntityOutcome] | GatewayError
        try:
            outcome = self.fails or outcomes(self._plan.read(request), self._rows)
        except GatewayError as error:
            outcome = error
        asyncio.get_running_loop().call_soon(done, outcome)

    async def aclose(self) -> None:
        """Nothing has to be closed."""
