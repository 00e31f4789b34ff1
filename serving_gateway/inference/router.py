"""What this replica routes to at this moment: the table that the request path reads.

A table is replaced as a whole, never changed, so that a request sees one generation. A version's
client outlives tables, and alone knows whether Triton has that version READY.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import (
    ACTIVE,
    VARIANTS,
    EffectiveVersion,
    FeatureSource,
    ReleaseState,
    RoutedVersion,
    RoutingRecord,
    Slot,
    Traffic,
    feature_contract,
)
from serving_gateway.inference.readiness import Lifecycle, unready_reasons
from serving_gateway.inference.release_counts import (
    PhaseCounter,
    ReleaseCounters,
    VersionCounter,
)
from serving_gateway.inference.traffic import A, B, TrafficPolicy
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.replication.records import digest
from serving_gateway.replication.replicas import ModelReport
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics, RoutedState, VariantStats
from serving_gateway.telemetry.prediction_log import VariantLog
from serving_gateway.triton.cluster import TritonCluster, TritonClusters

TRAFFIC_SECONDS: Final = 60.0
"""How long a variant counts as having traffic after its last request."""
_FRESH_SECONDS: Final = 1.0
"""How old a confirmed READY may be for a switch to rely on it without asking again."""


@dataclass(slots=True, eq=False)
class RoutingTarget:
    """A variant's slot in one generation, the way to its version, and its counts."""

    variant: str
    slot: Slot
    model_name: str
    client: VersionClient
    stats: VariantStats
    response_tails: dict[FeatureSource, bytes] = field(default_factory=dict)
    """What every response of the target ends with, by the source of its rows."""
    log: VariantLog | None = None
    """The log of its answers, from the first one that is logged."""

    counter: VersionCounter | None = None
    """Its counter in the active release; None without one."""

    side: RoutedVersion = field(init=False)

    def __post_init__(self) -> None:
        self.side = RoutedVersion(self.model_name, self.slot.version, self.slot.run_id)


class RoutingTable:
    """One generation, ready to route by; `production` is the target that answers by default.

    That is variant A's. If the release `is_withdrawn`, it answers everything, regardless of the
    record, and nothing is mirrored; while a release is watched, A is the candidate, and B, the
    previous version, answers everything instead.
    """

    __slots__ = ("digest", "policy", "production", "record", "services", "targets")

    def __init__(
        self,
        record: RoutingRecord,
        targets: Mapping[str, RoutingTarget],
        *,
        is_withdrawn: bool = False,
    ) -> None:
        self.record = record
        self.digest = digest(record)
        self.policy = TrafficPolicy(Traffic() if is_withdrawn else record.traffic)
        self.targets = targets
        is_watched = record.release is not None and record.release.state is ReleaseState.WATCHING
        before = targets.get(B) if is_withdrawn and is_watched else None
        self.production = before or targets.get(A)
        signatures = [target.slot.signature for target in targets.values()]
        self.services = frozenset(
            one.feature_service for one in signatures if one and one.feature_service
        )


@dataclass(eq=False)
class Router:
    """The table of this replica for one model, and all that it takes to build the next one.

    All models share `tritons` and the `budget` of bytes that waiting requests may hold.
    `record_problem` says why the model's record cannot be read, if it cannot; `on_adopt` is called
    with each adopted record, `on_services` with the feature services that one newly needs,
    `on_release_failure` at each failure that is counted for a release.
    """

    model_name: str
    settings: Settings
    tritons: TritonClusters
    lifecycle: Lifecycle
    metrics: ModelMetrics
    budget: ByteBudget
    record_problem: Callable[[], str | None] = lambda: None
    on_adopt: Callable[[RoutingRecord], None] = lambda _: None
    on_services: Callable[[frozenset[str]], object] = lambda _: None
    on_release_failure: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        # A version's client lives as long as a table, a request or a change in progress holds it.
        self._clients: WeakValueDictionary[Any, VersionClient] = WeakValueDictionary()
        self.table = self._former = RoutingTable(RoutingRecord(model_name=self.model_name), {})
        self._withdrawn: str | None = None
        self.counters = ReleaseCounters(self.on_release_failure)

    @property
    def record(self) -> RoutingRecord:
        """The record that is routed by; generation 0 before the first."""
        return self.table.record

    def triton(self, url: str | None) -> TritonCluster:
        """The client of a Triton; None means the default one."""
        return self.tritons.get(url or self.settings.triton_url)

    def client(self, slot: Slot) -> VersionClient:
        """The client of a slot; the same one for the same version and signature."""
        triton = self.triton(slot.triton_url)
        model_name = slot.model_name or self.model_name
        key = (triton.url, model_name, slot.version, slot.signature)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = VersionClient(
                triton, model_name, slot.version, slot.signature, self.settings, self.budget
            )
        return client

    async def follow(
        self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None
    ) -> None:
        """Ask Triton about what `record` newly routes to, then route by it.

        Triton is asked first, so that no request meets a version about which nothing is known; but
        before anything is answered, A does not wait for B. The record is adopted even if the answer
        is bad: a model whose version is not confirmed is not ready (I7). It is ignored unless it is
        newer than the present record, or that is `instead_of`, because the store has other content
        under the same generation.
        """
        if not self._supersedes(record, instead_of):
            return
        present = {target.client for target in self.table.targets.values()}
        is_first = self.table.production is None
        wanted = {
            self.client(slot) for alias, slot in _routed_slots(record) if alias == A or not is_first
        }
        stale = [one for one in wanted - present if not (one.ready and one.age < _FRESH_SECONDS)]
        await asyncio.gather(*(client.probe() for client in stale))
        self.adopt(record, instead_of=instead_of)

    def adopt(self, record: RoutingRecord, *, instead_of: RoutingRecord | None = None) -> None:
        """Route by `record` from now on, under the conditions of `follow`."""
        if not self._supersedes(record, instead_of):
            return
        phase = self.counters.open(record)
        targets = {alias: self._target(alias, slot, phase) for alias, slot in _routed_slots(record)}
        # Held, so that a rollback finds the client as it was, with all that it has learned.
        self._former, self.table = self.table, self._table(record, targets)
        if new := self.table.services - self._former.services:
            self.on_services(new)
        self.on_adopt(record)

    def withdraw(self, release_id: str | None) -> None:
        """Let a release's candidate answer no clients here, until the record ends the release.

        None: no release is withdrawn any more.
        """
        self._withdrawn = release_id
        self.table = self._table(self.record, self.table.targets)

    @property
    def is_withdrawn(self) -> bool:
        """Whether the record's release is active, but withdrawn here."""
        return self._is_withdrawn(self.record)

    def _is_withdrawn(self, record: RoutingRecord) -> bool:
        release = record.release
        return release is not None and release.id == self._withdrawn and release.state in ACTIVE

    def _table(self, record: RoutingRecord, targets: Mapping[str, RoutingTarget]) -> RoutingTable:
        return RoutingTable(record, targets, is_withdrawn=self._is_withdrawn(record))

    def _target(self, alias: str, slot: Slot, phase: PhaseCounter | None) -> RoutingTarget:
        client, stats = self.client(slot), self.metrics.variant(alias, slot.version)
        counter = None if phase is None else phase.counter_for(alias)
        return RoutingTarget(alias, slot, client.model_name, client, stats, counter=counter)

    def _supersedes(self, record: RoutingRecord, instead_of: RoutingRecord | None) -> bool:
        return record.generation > self.record.generation or self.record is instead_of

    def effective_versions(self) -> dict[str, EffectiveVersion]:
        """What each variant routes to."""
        targets = sorted(self.table.targets.items())
        return {alias: self._effective(target) for alias, target in targets}

    def _effective(self, target: RoutingTarget) -> EffectiveVersion:
        slot, client = target.slot, target.client
        signature = slot.signature
        return EffectiveVersion(
            model_name=target.model_name,
            version=slot.version,
            run_id=slot.run_id,
            run_id_source=slot.run_id_source,
            mode=slot.mode.value,
            ready=client.ready,
            reason=client.reason,
            confirmed_seconds_ago=None if client.age == inf else round(client.age, 3),
            triton_url=client.triton.url,
            feature_contract=None
            if signature is None
            else feature_contract(signature.features, signature.request),
            signature=signature,
            **msgspec.structs.asdict(slot.lineage),
        )

    def unready_reasons(self) -> tuple[str, ...]:
        """Why this replica cannot answer for the model; empty when it can."""
        target = self.table.production
        return unready_reasons(
            None if target is None else target.slot.version,
            None if target is None else target.client.reason,
            draining=self.lifecycle.draining,
            record_problem=self.record_problem(),
        )

    def recent_traffic(self) -> tuple[str, ...]:
        """The variants that had requests within the last minute."""
        since = time.monotonic() - TRAFFIC_SECONDS
        counts = self.metrics.variants.items()
        found = {key[0] for key, one in counts if one.last_at is not None and one.last_at > since}
        return tuple(sorted(found))

    def report(self) -> ModelReport:
        """What this replica reports about the model."""
        reasons, table = self.unready_reasons(), self.table
        return ModelReport(
            table.record.generation, table.digest, not reasons, reasons, self.recent_traffic()
        )

    def routed_state(self) -> RoutedState:
        """The state that Prometheus gets."""
        targets = self.table.targets.values()
        variants = [(one.variant, one.slot.version, one.client.ready) for one in targets]
        return RoutedState(not self.unready_reasons(), self.record.generation, variants)

    def still_served(self) -> dict[str, int]:
        """Versions by variant that this replica routes to, for error answers."""
        return {alias: slot.version for alias, slot in self.record.variants.items()}


def _routed_slots(record: RoutingRecord) -> list[tuple[str, Slot]]:
    return [(alias, slot) for alias, slot in record.variants.items() if alias in VARIANTS]
