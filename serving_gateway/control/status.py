"""What the gateway tells about itself: `GET /models` and `GET /health`. No HTTP in here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from serving_gateway.contract import Slot, Switch, Traffic
from serving_gateway.errors import GatewayError
from serving_gateway.presence import Presence
from serving_gateway.replicas import LiveReplica, Replica, now
from serving_gateway.routing import A, B
from serving_gateway.serving import Serving, Target
from serving_gateway.settings import Settings
from serving_gateway.shadow import Ledger, Shadow
from serving_gateway.state import Effective
from serving_gateway.watcher import Watcher


class Ssot(msgspec.Struct, frozen=True):
    """What Triton says at this moment."""

    model_name: str
    served_versions: tuple[int, ...]
    """All READY ones; empty too when Triton cannot be reached."""
    prod_served_version: int | None
    """The version A routes to; null unless Triton has it READY now."""
    shadow_served_version: int | None
    prod_triton_url: str
    shadow_triton_url: str | None
    triton_reachable: bool
    reason: str | None
    observed_at: str


class Active(msgspec.Struct, frozen=True):
    """What answers requests, in short."""

    model_name: str
    version: int
    run_id: str


class Routing(msgspec.Struct, frozen=True):
    """The generation that this replica routes by."""

    generation: int
    traffic: Traffic
    previous: dict[str, tuple[Slot, ...]]
    """Where a rollback of each variant goes, newest first."""
    switches: dict[str, tuple[Switch, ...]]
    """The last switches of each variant, newest first, rollbacks included."""
    changed_at: str | None
    changed_by: str | None
    reason: str | None
    store_problem: str | None


class Models(msgspec.Struct, frozen=True):
    """Body of `GET /models/{model_name}`; of `GET /models` for the default model."""

    models: tuple[str, ...]
    """All models that this replica hosts; each has `/models/{model_name}`."""
    ssot: Ssot
    effective: dict[str, Effective]
    active: dict[str, Active]
    routing: Routing
    replica: Replica
    """The process that answers."""
    replicas: tuple[LiveReplica, ...]
    """All live ones, this one included."""
    in_sync: bool
    """Whether all live replicas route by the newest generation; false where nobody can tell."""
    replicas_problem: str | None
    """Why others than this replica may be missing from the list."""


class Health(msgspec.Struct, frozen=True):
    """Body of `GET /health`."""

    status: str
    loaded_aliases: tuple[str, ...]
    model_name: str
    generation: int
    ready: bool


class Ready(msgspec.Struct, frozen=True):
    """Body of `GET /ready`."""

    status: str
    reasons: tuple[str, ...]


class Overview:
    """Describes this replica's side of one model, and what Triton says now."""

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        watcher: Watcher,
        presence: Presence,
        ledger: Ledger,
        names: Callable[[], tuple[str, ...]],
    ) -> None:
        self._settings = settings
        self._names = names
        self._serving = serving
        self._watcher = watcher
        self._presence = presence
        self._ledger = ledger

    def health(self) -> Health:
        """That the process lives, and which variants have a version."""
        record = self._serving.table.record
        return Health(
            status="ok",
            loaded_aliases=tuple(sorted(record.variants)),
            model_name=record.model_name,
            generation=record.generation,
            ready=self._serving.readiness().ready,
        )

    def ready(self) -> Ready:
        """Whether this replica should get traffic."""
        found = self._serving.readiness()
        return Ready("ready" if found.ready else "not ready", found.reasons)

    def shadow(self, *, examples: bool) -> Shadow:
        """How B's answers to mirrored requests compare with A's, on this replica."""
        targets = self._serving.table.targets
        production, shadow = targets.get(A), targets.get(B)
        return self._ledger.summary(
            self._presence.own().id,
            None if production is None else production.side,
            None if shadow is None else shadow.side,
            examples=examples,
        )

    async def models(self) -> Models:
        """What Triton serves, asked now, beside what this replica routes to."""
        table = self._serving.table
        record = table.record
        ssot, roster = await asyncio.gather(
            self._ssot(table.targets.get(A), table.targets.get(B)), self._presence.roster()
        )
        return Models(
            models=self._names(),
            ssot=ssot,
            effective=self._serving.effective(),
            active={
                alias: Active(target.model_name, target.slot.version, target.slot.run_id)
                for alias, target in sorted(table.targets.items())
                if target.lane.ready
            },
            routing=Routing(
                generation=record.generation,
                traffic=record.traffic,
                previous=record.previous,
                switches=record.switches,
                changed_at=record.changed_at,
                changed_by=record.changed_by,
                reason=record.reason,
                store_problem=self._watcher.store_problem,
            ),
            replica=self._presence.own(),
            replicas=roster.replicas,
            in_sync=roster.in_sync,
            replicas_problem=roster.problem,
        )

    async def _ssot(self, production: Target | None, shadow: Target | None) -> Ssot:
        settings = self._settings
        served, shadowed = await asyncio.gather(
            self._versions(None if production is None else production.slot),
            self._versions(None if shadow is None else shadow.slot),
        )
        reason: str | None = None
        versions: tuple[int, ...] = ()
        if isinstance(served, GatewayError):
            reason = served.message
        else:
            versions = served
        return Ssot(
            model_name=self._serving.model_name,
            served_versions=versions,
            prod_served_version=_among(production, served),
            shadow_served_version=_among(shadow, shadowed),
            prod_triton_url=settings.triton_url,
            shadow_triton_url=None if shadow is None else shadow.lane.triton.url,
            triton_reachable=reason is None,
            reason=reason,
            observed_at=now(),
        )

    async def _versions(self, slot: Slot | None) -> tuple[int, ...] | GatewayError:
        triton = self._serving.triton(None if slot is None else slot.triton_url)
        name = self._serving.model_name
        if slot is not None and slot.model_name is not None:
            name = slot.model_name
        try:
            return await triton.ready_versions(name, self._settings.probe_seconds)
        except GatewayError as error:
            return error


def _among(target: Target | None, served: tuple[int, ...] | GatewayError) -> int | None:
    if target is None or isinstance(served, GatewayError) or target.slot.version not in served:
        return None
    return target.slot.version
