"""What the gateway reports about one model: `GET /models` and `GET /health`. No HTTP here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from serving_gateway.contract import (
    HealthStatus,
    ModelStatus,
    ReadyStatus,
    RoutingStatus,
    ShadowReport,
    Ssot,
)
from serving_gateway.errors import GatewayError
from serving_gateway.inference.router import Router, RoutingTarget
from serving_gateway.inference.shadow import ShadowStatistics
from serving_gateway.inference.traffic import A, B
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.replicas import now
from serving_gateway.settings import Settings


@dataclass(slots=True, eq=False)
class StatusReporter:
    """Describes this replica's view of one model, and what Triton reports now.

    `ledger` compares B with A, `names` lists all hosted models; `store_problem` says why the
    model's record cannot be read, if it cannot.
    """

    settings: Settings
    router: Router
    heartbeat: Heartbeat
    ledger: ShadowStatistics
    names: Callable[[], tuple[str, ...]]
    store_problem: Callable[[], str | None]

    def health(self) -> HealthStatus:
        """Report that the process is alive, and which variants have a version."""
        record = self.router.record
        return HealthStatus(
            status="ok",
            loaded_aliases=tuple(sorted(record.variants)),
            model_name=record.model_name,
            generation=record.generation,
            ready=not self.router.unready_reasons(),
        )

    def ready(self) -> ReadyStatus:
        """Whether this replica can answer for the model."""
        reasons = self.router.unready_reasons()
        return ReadyStatus("not ready" if reasons else "ready", reasons)

    def shadow(self, *, examples: bool) -> ShadowReport:
        """How B's answers to mirrored requests compare with A's, on this replica."""
        sides = {alias: target.side for alias, target in self.router.table.targets.items()}
        replica = self.heartbeat.identity.id
        return self.ledger.summary(replica, sides.get(A), sides.get(B), examples=examples)

    async def models(self) -> ModelStatus:
        """What Triton serves, asked now, next to what this replica routes to."""
        table = self.router.table
        record = table.record
        own = self.heartbeat.status(self.router.report())
        ssot, replica_list = await asyncio.gather(
            self._ssot(table.targets.get(A), table.targets.get(B)),
            self.heartbeat.replica_list(record.model_name, own),
        )
        return ModelStatus(
            models=self.names(),
            ssot=ssot,
            effective=self.router.effective_versions(),
            active={
                alias: target.side
                for alias, target in sorted(table.targets.items())
                if target.client.ready
            },
            routing=msgspec.structs.replace(
                msgspec.convert(record, RoutingStatus, from_attributes=True),
                store_problem=self.store_problem(),
            ),
            replica=own,
            replicas=replica_list.replicas,
            in_sync=replica_list.in_sync,
            mlflow_ui_url=self.settings.mlflow_ui_url,
            replicas_problem=replica_list.problem,
        )

    async def _ssot(self, production: RoutingTarget | None, shadow: RoutingTarget | None) -> Ssot:
        served, shadowed = await asyncio.gather(self._ready(production), self._ready(shadow))
        reason = served.message if isinstance(served, GatewayError) else None
        return Ssot(
            model_name=self.router.model_name,
            served_versions=() if isinstance(served, GatewayError) else served,
            prod_served_version=_version_if_ready(production, served),
            shadow_served_version=_version_if_ready(shadow, shadowed),
            prod_triton_url=self.settings.triton_url,
            shadow_triton_url=None if shadow is None else shadow.client.triton.url,
            triton_reachable=reason is None,
            reason=reason,
            observed_at=now(),
        )

    async def _ready(self, target: RoutingTarget | None) -> tuple[int, ...] | GatewayError:
        """The READY versions of the target's model, or of the model itself; or Triton's error."""
        triton = self.router.triton(None) if target is None else target.client.triton
        name = self.router.model_name if target is None else target.model_name
        try:
            return await triton.ready_versions(name, self.settings.probe_seconds)
        except GatewayError as error:
            return error


def _version_if_ready(
    target: RoutingTarget | None, served: tuple[int, ...] | GatewayError
) -> int | None:
    if target is None or isinstance(served, GatewayError) or target.slot.version not in served:
        return None
    return target.slot.version
