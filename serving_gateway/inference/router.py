"""What this replica routes to at this moment: the table that the request path reads.

A table is replaced as a whole, never changed, so that a request sees one generation. A lane is
one version on one Triton; it outlives tables, and alone knows whether Triton has it READY.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from serving_gateway.contract import (
    VARIANTS,
    EffectiveVersion,
    RoutingRecord,
    ShadowSide,
    Signature,
    Slot,
)
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.inference.batcher import Coalescer
from serving_gateway.inference.codec import Answers, Codec
from serving_gateway.inference.readiness import (
    Lifecycle,
    Observation,
    Readiness,
    effective,
    readiness,
)
from serving_gateway.inference.traffic import A, TrafficPolicy
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import ModelMetrics, Routed, VariantStats
from serving_gateway.triton.client import Triton
from serving_gateway.triton.client_pool import TritonClientPool
from serving_gateway.triton.protocol import signature_from_metadata

_FRESH_SECONDS: Final = 1.0
"""How old a confirmed READY may be for a switch to rely on it without asking again."""


class VersionClient:
    """One version on one Triton, with what is known about it.

    Attributes:
        ready: whether Triton has the version READY, as last seen.
        reason: why it is not.
        coalescer: the way to it; None until its signature is known.
    """

    def __init__(
        self,
        triton: Triton,
        model_name: str,
        version: int,
        signature: Signature | None,
        settings: Settings,
    ) -> None:
        self.triton = triton
        self.model_name = model_name
        self.version = version
        self.ready = False
        self.reason: str | None = "not yet confirmed with Triton"
        self.coalescer: Coalescer | None = None
        self._settings = settings
        self._confirmed_at: float | None = None
        self._unusable: str | None = None
        if signature is not None:
            try:
                self._open(signature)
            except (ValueError, IndexError, KeyError) as error:
                # Whatever a registry or a record holds must not keep others from being served.
                self._unusable = f"The signature of version {version} cannot be used: {error}."

    def _open(self, signature: Signature) -> None:
        settings = self._settings
        self.coalescer = Coalescer(
            self.triton,
            self.model_name,
            self.version,
            Codec(signature),
            max_rows=max(1, min(settings.max_batch_rows, signature.max_batch_rows)),
            max_in_flight=settings.max_in_flight,
            max_queued=settings.max_queued,
            request_seconds=settings.request_seconds,
            on_answer=self.mark_ready,
        )

    def mark_ready(self) -> None:
        """Note that the version is there: Triton said so, or it answered."""
        self._confirmed_at = time.monotonic()
        if not self.ready and self.coalescer is not None:
            self.ready = True
            self.reason = None

    def mark_unready(self, reason: str) -> None:
        """Note that the version cannot answer."""
        self.ready = False
        self.reason = reason

    def observation(self) -> Observation:
        """What is known, for the pure rules."""
        at = self._confirmed_at
        return Observation(self.ready, self.reason, None if at is None else time.monotonic() - at)

    @property
    def fresh(self) -> bool:
        """Whether Triton confirmed the version a moment ago."""
        age = self.observation().age_seconds
        return self.ready and age is not None and age < _FRESH_SECONDS

    async def require_ready(self) -> None:
        """Ask Triton now, and learn the signature when none is recorded.

        Raises:
            VersionNotReady: Triton says that the version is not READY.
            TritonUnavailable, DeadlineExceeded, BadUpstreamAnswer: it cannot tell.
            VariantUnavailable: rows cannot be mapped to the version's inputs.
        """
        if self._unusable is not None:
            raise VariantUnavailable(self._unusable, code="unsupported_signature")
        limit = self._settings.probe_seconds
        if not await self.triton.version_ready(self.model_name, self.version, limit):
            raise VersionNotReady(
                f"Triton at {self.triton.url} does not have {self.model_name} version "
                f"{self.version} READY."
            )
        if self.coalescer is None:
            found = await self.triton.metadata(self.model_name, limit, self.version)
            if found is None:
                raise VersionNotReady(
                    f"Triton at {self.triton.url} lost {self.model_name} version {self.version} "
                    "while it was asked about it."
                )
            self._open(signature_from_metadata(found, self.version))

    async def probe(self) -> None:
        """Ask Triton now and note the answer.

        A question that got no answer counts only once no inference was answered for a while
        either: a busy Triton may be slow to say that it is ready.
        """
        try:
            await self.require_ready()
        except (DeadlineExceeded, BadUpstreamAnswer) as error:
            age = self.observation().age_seconds
            if age is None or age > self._settings.staleness_seconds:
                self.mark_unready(error.message)
        except GatewayError as error:
            self.mark_unready(error.message)
        else:
            self.mark_ready()

    async def warm_up(self) -> Answers:
        """Run one harmless row through exactly this version.

        Raises:
            VersionNotReady: the inference was refused, or its answer cannot be used.
            TritonUnavailable, DeadlineExceeded: Triton is gone.
        """
        if self.coalescer is None:
            raise VersionNotReady(f"Version {self.version} was not prepared.")
        tensors = self.coalescer.codec.warm_up_rows()
        try:
            return await self.coalescer.submit(tensors, 1, self._settings.warm_up_seconds)
        except (InferenceRefused, BadUpstreamAnswer) as error:
            raise VersionNotReady(
                f"A trial inference through {self.model_name} version {self.version} failed: "
                f"{error.message}",
                code="warm_up_failed",
            ) from error


class Target:
    """A variant's slot, its lane, and its counts."""

    __slots__ = ("client", "model_name", "side", "slot", "stats", "variant")

    def __init__(
        self, variant: str, slot: Slot, model_name: str, client: VersionClient, stats: VariantStats
    ) -> None:
        self.variant = variant
        self.slot = slot
        self.model_name = model_name
        self.side = ShadowSide(model_name, slot.version, slot.run_id)
        self.client = client
        self.stats = stats


class RoutingTable:
    """One generation, ready to route by."""

    __slots__ = ("policy", "record", "services", "targets")

    def __init__(self, record: RoutingRecord, targets: Mapping[str, Target]) -> None:
        self.record = record
        self.policy = TrafficPolicy(record.traffic)
        self.targets = targets
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
    """

    def __init__(
        self,
        model_name: str,
        settings: Settings,
        tritons: TritonClientPool,
        lifecycle: Lifecycle,
        metrics: ModelMetrics,
    ) -> None:
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

    def triton(self, url: str | None) -> Triton:
        """The client of a Triton; None means the default one."""
        return self._tritons.of(url or self._settings.triton_url)

    def client(self, slot: Slot) -> VersionClient:
        """The lane of a slot; the same one for the same version and signature."""
        triton = self.triton(slot.triton_url)
        model_name = slot.model_name or self.model_name
        key = (triton.url, model_name, slot.version, slot.signature)
        client = self._clients.get(key)
        if client is None:
            client = VersionClient(triton, model_name, slot.version, slot.signature, self._settings)
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

    def routed(self) -> Routed:
        """What is told to Prometheus."""
        table = self.table
        variants = [
            (one.variant, one.slot.version, one.client.ready) for one in table.targets.values()
        ]
        return Routed(self.readiness().ready, table.record.generation, variants)

    def still_served(self) -> dict[str, int]:
        """Versions by variant that this replica routes to, for error answers."""
        return {alias: slot.version for alias, slot in self.table.record.variants.items()}


def _nobody() -> None:
    """Stands where nobody wants to be told."""


def _no_matter(_: frozenset[str]) -> None:
    """Stands where there is no feature store."""


def production(table: RoutingTable) -> Target:
    """Variant A's target.

    Raises:
        VariantUnavailable: nothing was ever reloaded onto A.
    """
    target = table.targets.get(A)
    if target is None:
        raise VariantUnavailable(
            "Variant A has no version yet: nothing was ever reloaded onto it.",
            code="no_effective_version",
        )
    return target
