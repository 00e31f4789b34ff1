"""The use cases that change what is served: reload, rollback, traffic, removal. No HTTP here.

A change of version asks Triton at that moment and verifies the version with an inference; each
change writes the routing record once. A failure before that write leaves everything as it was (I1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from serving_gateway.contract import (
    VARIANTS,
    ClearResponse,
    Mode,
    ReloadRequest,
    ReloadResponse,
    RemovalResponse,
    RollbackRequest,
    RoutingRecord,
    Slot,
    TrafficRequest,
    TrafficResponse,
)
from serving_gateway.control import release_transitions, transitions
from serving_gateway.control.provenance import check_contract, resolve_slot
from serving_gateway.control.record_writer import RecordWriter
from serving_gateway.control.verification import VersionVerifier
from serving_gateway.errors import (
    Conflict,
    GatewayError,
    GenerationConflict,
    InvalidInput,
    NotFound,
)
from serving_gateway.inference.router import TRAFFIC_SECONDS, Router
from serving_gateway.inference.traffic import A, B
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.telemetry.counters import ModelMetrics

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ControlPlane:
    """Changes the routing record of one model; `by` identifies the caller.

    All changes raise `NotFound` for an unknown variant, `Conflict` when the rules or the state of a
    version forbid them, `GenerationConflict` when another change came first, and `Unavailable` when
    Triton or the store cannot be reached or a version's run is unknown. Then nothing has changed.
    """

    router: Router
    verifier: VersionVerifier
    writer: RecordWriter
    heartbeat: Heartbeat
    metrics: ModelMetrics
    change_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadResponse:
        """Move a variant to a version that Triton, asked now, has READY."""
        verifier = self.verifier
        async with self.open_change("reload", alias, request.version):
            record = await self.writer.current()
            upstream = verifier.upstream(alias)
            ready = await verifier.ready_versions(upstream)
            version, mode = choice = transitions.choose(record, alias, request, ready)
            release_transitions.check_reload(record, alias, version, mode)
            await verifier.require_ready(ready, upstream, version)
            slot = await resolve_slot(
                self.verifier.registry, record, upstream, version, mode, request.run_id
            )
            check_contract(request.feature_contract, slot, upstream.model_name)

            def change(fresh: RoutingRecord) -> RoutingRecord:
                # The rules are applied again to the record that is actually replaced: a pin set
                # meanwhile holds, and a version chosen by rule must still be the chosen one.
                if transitions.choose(fresh, alias, request, ready) != choice or (
                    alias == B
                    and transitions.is_split(fresh.traffic)
                    and not transitions.is_split(record.traffic)
                ):
                    raise _concurrent_change(alias, version)
                release_transitions.check_reload(fresh, alias, version, mode)
                return transitions.with_slot(fresh, alias, slot)

            return await self._switch(alias, record, slot, ready, change, by, request.reason)

    async def rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadResponse:
        """Move a variant back to the version before, or to a named one; it is then pinned."""
        verifier = self.verifier
        async with self.open_change("rollback", alias, request.version):
            record = await self.writer.current()
            current = record.variants.get(alias)
            before, upstream = None, verifier.upstream(alias)
            if (version := request.version) is None:
                before = transitions.previous_slot(record, alias)
                version, upstream = before.version, verifier.upstream_of(before)
            ready = await verifier.ready_versions(upstream)
            await verifier.require_ready(ready, upstream, version)
            slot = before or await resolve_slot(
                self.verifier.registry, record, upstream, version, Mode.PINNED
            )

            def change(fresh: RoutingRecord) -> RoutingRecord:
                moved = before is not None and transitions.previous_slot(fresh, alias) != before
                if moved or fresh.variants.get(alias) != current:
                    raise _concurrent_change(alias, slot.version)
                return transitions.roll_back(fresh, alias, slot)

            reason = request.reason or "rollback"
            return await self._switch(alias, record, slot, ready, change, by, reason)

    async def _switch(
        self,
        alias: str,
        record: RoutingRecord,
        slot: Slot,
        ready: tuple[int, ...],
        change: Callable[[RoutingRecord], RoutingRecord],
        by: str,
        reason: str | None,
    ) -> ReloadResponse:
        """Verify the version of a slot, then commit `change`, which routes to it."""
        client = await self.verifier.verify(slot)
        if alias == B:
            await self._check_split(change(record))
        written, changed = await self.writer.commit(change, by, reason)
        del client  # held until adoption, so that the router uses this very client
        previous, slot = record.variants.get(alias), written.variants[alias]
        return ReloadResponse(
            status="success",
            variant=alias,
            version=slot.version,
            run_id=slot.run_id,
            run_id_source=slot.run_id_source,
            mode=slot.mode,
            generation=written.generation,
            previous_version=None if previous is None else previous.version,
            changed=changed,
            other_ready_versions=tuple(version for version in ready if version != slot.version),
        )

    async def set_traffic(self, request: TrafficRequest, by: str) -> TrafficResponse:
        """Change the traffic policy; `InvalidInput` for an invalid share."""
        async with self.open_change("traffic"):
            record = await self.writer.current()
            await self._check_split(transitions.with_traffic(record, request))

            def change(fresh: RoutingRecord) -> RoutingRecord:
                expected = request.expected_generation
                if expected is not None and fresh.generation != expected:
                    raise GenerationConflict(
                        f"The routing record is at generation {fresh.generation}, not at the "
                        f"expected {expected}. Look at /models and decide again."
                    )
                wanted = transitions.with_traffic(fresh, request)
                if transitions.is_split(wanted.traffic) and fresh.variants != record.variants:
                    raise _concurrent_change(B, fresh.variants[B].version)
                return wanted

            written, changed = await self.writer.commit(change, by, request.reason)
        return TrafficResponse("success", written.traffic, written.generation, changed)

    async def clear_variant(
        self, alias: str, *, force: bool, by: str, reason: str | None
    ) -> ClearResponse:
        """Remove variant B's version and its share of the traffic; needs `force` if it has any."""
        if alias == A:
            raise Conflict(
                "Variant A is production: it can only be removed with the model (DELETE "
                f"/models/{self.router.model_name}). Reload it to change its version.",
                code="production_variant",
            )
        before = self.router.record

        def change(fresh: RoutingRecord) -> RoutingRecord:
            nonlocal before
            before = fresh
            return transitions.without_variant(fresh, alias)

        async with self.open_change("clear", alias):
            await self._require_no_traffic(alias, force)
            written, changed = await self.writer.commit(change, by, reason)
        slot = before.variants.get(alias)
        return ClearResponse(
            status="success",
            variant=alias,
            version=None if slot is None else slot.version,
            generation=written.generation,
            changed=changed,
            traffic_turned_off=changed and transitions.has_traffic(before.traffic),
            traffic=written.traffic,
        )

    async def remove(self, *, force: bool, by: str, reason: str | None) -> RemovalResponse:
        """Remove the model from all replicas; needs `force` while A has traffic."""
        async with self.open_change("remove"):
            await self._require_no_traffic(A, force)
            served = self.router.still_served()
            done, changed = await self.writer.commit(transitions.remove, by, reason)
        return RemovalResponse("success", self.router.model_name, done.generation, served, changed)

    @contextlib.asynccontextmanager
    async def open_change(
        self,
        operation: str,
        alias: str = A,
        version: int | None = None,
        *,
        waits: bool = True,
    ) -> AsyncIterator[None]:
        """Make one change at a time, of a variant that exists, and count it by its outcome.

        A change that verifies no version need not wait for one that does (`waits`): it is a mere
        compare-and-set.
        """
        if alias not in VARIANTS:
            raise NotFound(
                f"There is no variant {alias!r}; there are {' and '.join(VARIANTS)}.",
                code="unknown_variant",
            )
        try:
            if version is not None and version < 1:
                raise InvalidInput(
                    f"version is {version}; versions start at 1.",
                    field="version",
                    code="out_of_range",
                )
            async with self.change_lock if waits else contextlib.nullcontext():
                yield
        except GatewayError as error:
            self.metrics.changes.labels(operation, error.code).inc()
            log.warning(
                "a change was refused",
                extra={"operation": operation, "code": error.code, "reason": error.message},
            )
            raise
        self.metrics.changes.labels(operation, "success").inc()

    async def _check_split(self, wanted: RoutingRecord) -> None:
        """Refuse a record in which B answers clients whose requests it cannot read."""
        a, b = wanted.variants.get(A), wanted.variants.get(B)
        if transitions.is_split(wanted.traffic) and a is not None and b is not None:
            await self.verifier.require_split(a, b)

    async def _require_no_traffic(self, alias: str, force: bool) -> None:
        """Refuse, unless forced, to remove a variant that has requests on any replica."""
        if force:
            return
        router = self.router
        own = self.heartbeat.status(router.report())
        listing = await self.heartbeat.replica_list(router.model_name, own)
        busy = [replica.id for replica in listing.replicas if alias in replica.traffic]
        if busy:
            raise Conflict(
                f"Variant {alias} of {router.model_name} had requests within the last "
                f"{TRAFFIC_SECONDS:g} s, at {', '.join(busy)}; mirrored copies count for B. "
                "Nothing was changed. Stop them first and wait that long, or set force.",
                code="variant_has_traffic",
            )


def _concurrent_change(alias: str, version: int) -> GenerationConflict:
    return GenerationConflict(
        f"Variant {alias} was changed while version {version} was being verified. Look at /models "
        "and ask again."
    )
