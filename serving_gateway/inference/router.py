"""What this replica routes to at this moment: the table that the request path reads.

A table is replaced as a whole, never changed, so that a request sees one generation. A lane is
one version on one Triton; it outlives tables, and alone knows whether Triton has it READY.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import (
    VARIANTS,
    EffectiveVersion,
    FeatureSource,
    RoutingRecord,
    ShadowSide,
    Slot,
)
from serving_gateway.inference.readiness import (
    Lifecycle,
    Readiness,
    effective,
    readiness,
)
from serving_gateway.inference.traffic import A, TrafficPolicy
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics, RoutedState, VariantStats
from serving_gateway.triton.client_pool import TritonClientPool
from serving_gateway.triton.cluster import TritonCluster


class Target:
    """A variant's slot in one generation, the way to its version, and its counts.

    `response_tails` keeps what every response of the target ends with, by the source of its rows.
    """

    __slots__ = (
        "client",
        "model_name",
        "response_tails",
        "side",
        "slot",
        "stats",
        "variant",
    )

    def __init__(
        self, variant: str, slot: Slot, model_name: str, client: VersionClient, stats: VariantStats
    ) -> None:
        self.variant = variant
        self.slot = slot
        self.model_name = model_name
        self.side = ShadowSide(model_name, slot.version, slot.run_id)
        self.client = client
        self.stats = stats
        self.response_tails: dict[FeatureSource, bytes] = {}


class RoutingTable:
    """One generation, ready to route by; `production` is variant A's target."""

    __slots__ = ("policy", "production", "record", "services", "targets")

    def __init__(self, record: RoutingRecord, targets: Mapping[str, Target]) -> None:
        self.record = record
        self.policy = TrafficPolicy(record.traffic)
        self.targets = targets
        self.production = targets.get(A)
        signatures = [target.slot.signature for target in targets.values()]
        self.services = frozenset(
            one.feature_service for one in signatures if one and one.feature_service
        )


class Router:
    """The table of this replica for one model, and all that it takes to build the next one.

    Args:
        model_name: whose table it is.
        settings: limits, and where Triton is by default.
        tritons: connections, shared by all models.
        lifecycle: whether the process is about to end.
        metrics: counts of this model.
        budget: bytes that waiting requests may hold, over all models.
    """

    def __init__(
        self,
        model_name: str,
        settings: Settings,
        tritons: TritonClientPool,
        lifecycle: Lifecycle,
        metrics: ModelMetrics,
        budget: ByteBudget,
    ) -> None:
        self._budget = budget
        self.model_name = model_name
        self._settings = settings
        self._tritons = tritons
        self._lifecycle = lifecycle
        self._metrics = metrics
        # A lane lives as long as a table, a request or a change under way holds it.
        self._clients: WeakValueDictionary[Any, VersionClient] = WeakValueDictionary()
        self.table = RoutingTable(RoutingRecord(model_name=model_name), {})
        self.on_adopt: Callable[[], None] = _nobody
        """Called after each record that was adopted."""
        self.on_services: Callable[[frozenset[str]], None] = _no_matter
        """Called with the feature services of each record that was adopted."""
        self.record_problem: str | None = "the routing store was not read yet"

    def triton(self, url: str | None) -> TritonCluster:
        """The client of a Triton; None means the default one."""
        return self._tritons.of(url or self._settings.triton_url)

    def client(self, slot: Slot) -> VersionClient:
        """The lane of a slot; the same one for the same version and signature."""
        triton = self.triton(slot.triton_url)
        model_name = slot.model_name or self.model_name
        key = (triton.url, model_name, slot.version, slot.signature)
        client = self._clients.get(key)
        if client is None:
            client = VersionClient(
                triton, model_name, slot.version, slot.signature, self._settings, self._budget
            )
            self._clients[key] = client
        return client

    async def follow(self, record: RoutingRecord) -> None:
        """Ask Triton about what `record` newly routes to, then route by it.

        Asked first, so that no request meets a version about which nothing is known. Routed by
        whatever the answer was: a replica that cannot confirm its version is not ready (I7).
        """
        if record.generation <= self.table.record.generation:
            return
        present = {target.client for target in self.table.targets.values()}
        wanted = {self.client(slot) for alias, slot in record.variants.items() if alias in VARIANTS}
        await asyncio.gather(*(client.probe() for client in wanted - present if not client.fresh))
        self.adopt(record)

    def adopt(self, record: RoutingRecord) -> None:
        """Route by `record` from now on, when it is newer than the present one."""
        if record.generation <= self.table.record.generation:
            return
        targets = {
            alias: Target(
                alias,
                slot,
                slot.model_name or record.model_name,
                self.client(slot),
                self._metrics.variant(alias, slot.version),
            )
            for alias, slot in record.variants.items()
            if alias in VARIANTS
        }
        former, self.table = self.table.services, RoutingTable(record, targets)
        if self.table.services - former:
            self.on_services(self.table.services - former)
        self.on_adopt()

    async def probe(self) -> None:
        """Ask Triton about every version that is routed to."""
        clients = {target.client for target in self.table.targets.values()}
        await asyncio.gather(*(client.probe() for client in clients))

    def effective(self) -> dict[str, EffectiveVersion]:
        """What each variant routes to."""
        table = self.table
        seen = {alias: target.client.observation() for alias, target in table.targets.items()}
        return effective(table.record, seen, self._settings.triton_url)

    def readiness(self) -> Readiness:
        """Whether this replica should get traffic."""
        return readiness(
            self.effective(),
            staleness_seconds=self._settings.staleness_seconds,
            draining=self._lifecycle.draining,
            record_problem=self.record_problem,
        )

    def routed(self) -> RoutedState:
        """What is told to Prometheus."""
        table = self.table
        variants = [
            (one.variant, one.slot.version, one.client.ready) for one in table.targets.values()
        ]
        return RoutedState(self.readiness().ready, table.record.generation, variants)

    def still_served(self) -> dict[str, int]:
        """Versions by variant that this replica routes to, for error answers."""
        return {alias: slot.version for alias, slot in self.table.record.variants.items()}


def _nobody() -> None:
    """Stands where nobody wants to be told."""


def _no_matter(_: frozenset[str]) -> None:
    """Stands where there is no feature store."""
