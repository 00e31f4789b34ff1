"""The use cases that change what is served: reload, rollback, traffic, removal. No HTTP in here.

A change of version asks Triton at that moment and verifies the version with an inference; each
writes the routing record once. What goes wrong before that write leaves everything as it was (I1).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

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
from serving_gateway.control.provenance import check_contract
from serving_gateway.control.record_writer import RecordWriter
from serving_gateway.control.registry import Registry
from serving_gateway.control.transitions import (
    choose,
    has_traffic,
    previous_slot,
    removed,
    rolled_back,
    splits,
    with_slot,
    with_traffic,
    without_variant,
)
from serving_gateway.control.verification import VersionVerifier
from serving_gateway.errors import (
    Conflict,
    GatewayError,
    GenerationConflict,
    InvalidInput,
    NotFound,
)
from serving_gateway.features.reader import FeatureReader
from serving_gateway.inference.router import TRAFFIC_SECONDS, Router
from serving_gateway.inference.traffic import A, B
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class ControlPlane:
    """Changes the routing record.

    Args:
        settings: addresses and limits.
        router: this replica's table.
        writer: reads and writes the record.
        heartbeat: knows which variants have traffic on other replicas.
        registry: knows the run and the signature of a version; None when there is none.
        metrics: counts the changes.
        features: looks features up; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        writer: RecordWriter,
        heartbeat: Heartbeat,
        registry: Registry | None,
        metrics: ModelMetrics,
        features: FeatureReader | None = None,
    ) -> None:
        self._router = router
        self._writer = writer
        self._heartbeat = heartbeat
        self._metrics = metrics
        self._verifier = VersionVerifier(settings, router, registry, features)
        self._one_at_a_time = asyncio.Lock()

    async def reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadResponse:
        """Move a variant to a version that Triton, asked now, has READY.

        Args:
            alias: the variant.
            request: what the caller asks for.
            by: who asks, for the record.

        Raises:
            NotFound: no such variant, or neither Triton nor the registry knows the version.
            Conflict: the version is not READY, its trial inference failed, several are READY
                and none was named, the variant is pinned, the run contradicts the registry,
                the features are not those that the caller named, or B answers a share of the
                clients and the version cannot answer what they send.
            Unavailable: Triton cannot be asked, nothing is READY, the run is not known, or the
                store cannot be written.
        """
        _check_alias(alias)
        return await self._counted("reload", self._reload(alias, request, by))

    async def rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadResponse:
        """Move a variant back to the version before, or to a named one; it is then pinned.

        Raises:
            NotFound: no such variant, or neither Triton nor the registry knows the version.
            Conflict: nothing to go back to, or it is not READY or not registered, or its trial
                inference failed, or it is B's and cannot answer the clients of a split.
            Unavailable: Triton cannot be asked, the run of the version named is not known, or
                the store cannot be written.
        """
        _check_alias(alias)
        return await self._counted("rollback", self._rollback(alias, request, by))

    async def set_traffic(self, request: TrafficRequest, by: str) -> TrafficResponse:
        """Change the traffic policy.

        Raises:
            InvalidInput: an impossible share.
            Conflict: B has no version, or cannot answer what A's clients send, or the record is
                not at `expected_generation`.
            Unavailable: the store cannot be written.
        """
        return await self._counted("traffic", self._set_traffic(request, by))

    async def clear_variant(
        self, alias: str, *, force: bool, by: str, reason: str | None
    ) -> ClearResponse:
        """Take variant B's version away, and its share of the traffic.

        Args:
            alias: the variant.
            force: clear it even if it had traffic within the last minute.
            by: who asks, for the record.
            reason: why, for the record.

        Raises:
            NotFound: no such variant.
            Conflict: it is A, or it had traffic within the last minute.
            Unavailable: the store cannot be written.
        """
        _check_alias(alias)
        if alias == A:
            raise Conflict(
                "Variant A is production: it goes with the model only (DELETE "
                f"/models/{self._router.model_name}). Reload it to change its version.",
                code="production_variant",
            )
        return await self._counted("clear", self._clear_variant(alias, force, by, reason))

    async def remove(self, *, force: bool, by: str, reason: str | None) -> RemovalResponse:
        """Remove the model: no replica routes it any more.

        Raises:
            Conflict: A had traffic within the last minute, and `force` is not set.
            Unavailable: the store cannot be written.
        """
        return await self._counted("remove", self._remove(force, by, reason))

    async def _counted(self, operation: str, work: Coroutine[None, None, _T]) -> _T:
        try:
            result = await work
        except GatewayError as error:
            self._metrics.changes.labels(operation, error.code).inc()
            log.warning(
                "a change was refused",
                extra={"operation": operation, "code": error.code, "reason": error.message},
            )
            raise
        self._metrics.changes.labels(operation, "success").inc()
        return result

    async def _reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadResponse:
        _check_version(request.version)
        verifier = self._verifier
        async with self._one_at_a_time:
            record = await self._writer.current()
            upstream = verifier.upstream(alias)
            ready = await verifier.ready_versions(upstream)
            choice = choose(record, alias, request, ready)
            version = choice.version
            await verifier.require_among(ready, upstream, version)
            held = record.variants.get(alias)
            slot = await verifier.resolve_slot(
                record, upstream, version, choice.mode, request.run_id
            )
            check_contract(request.feature_contract, slot.signature, upstream.model_name, version)
            client = await verifier.verify(slot)
            if alias == B:
                await self._check_split(with_slot(record, alias, slot))

            def change(fresh: RoutingRecord) -> RoutingRecord:
                # The rules are applied again to the record that is really replaced: a pin set
                # meanwhile holds, and a version chosen by rule must still be the chosen one.
                if choose(fresh, alias, request, ready) != choice or (
                    alias == B and splits(fresh.traffic) and not splits(record.traffic)
                ):
                    raise _changed_while_verified(alias, version)
                return with_slot(fresh, alias, slot)

            done, changed = await self._writer.commit(change, by, request.reason, holding=client)
        return _answer(alias, done, held, changed, choice.others)

    async def _rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadResponse:
        _check_version(request.version)
        verifier = self._verifier
        async with self._one_at_a_time:
            record = await self._writer.current()
            held = record.variants.get(alias)
            before, upstream = None, verifier.upstream(alias)
            if (version := request.version) is None:
                before = previous_slot(record, alias)
                version, upstream = before.version, verifier.upstream_of(before)
            ready = await verifier.ready_versions(upstream)
            await verifier.require_among(ready, upstream, version)
            slot = before or await verifier.resolve_slot(
                record, upstream, version, Mode.PINNED, None
            )
            client = await verifier.verify(slot)
            if alias == B:
                await self._check_split(rolled_back(record, alias, slot))

            def change(fresh: RoutingRecord) -> RoutingRecord:
                moved = before is not None and previous_slot(fresh, alias) != before
                if moved or fresh.variants.get(alias) != held:
                    raise _changed_while_verified(alias, slot.version)
                return rolled_back(fresh, alias, slot)

            done, changed = await self._writer.commit(
                change, by, request.reason or "rollback", holding=client
            )
        others = tuple(version for version in ready if version != slot.version)
        return _answer(alias, done, held, changed, others)

    async def _set_traffic(self, request: TrafficRequest, by: str) -> TrafficResponse:
        async with self._one_at_a_time:
            record = await self._writer.current()
            await self._check_split(with_traffic(record, request))

            def change(fresh: RoutingRecord) -> RoutingRecord:
                expected = request.expected_generation
                if expected is not None and fresh.generation != expected:
                    raise GenerationConflict(
                        f"The routing record is at generation {fresh.generation}, not at the "
                        f"expected {expected}. Look at /models and decide again."
                    )
                if splits(with_traffic(fresh, request).traffic) and (
                    fresh.variants != record.variants
                ):
                    raise _changed_while_verified(B, fresh.variants[B].version)
                return with_traffic(fresh, request)

            done, changed = await self._writer.commit(change, by, request.reason)
        return TrafficResponse("success", done.traffic, done.generation, changed)

    async def _clear_variant(
        self, alias: str, force: bool, by: str, reason: str | None
    ) -> ClearResponse:
        replaced: list[RoutingRecord] = []

        def change(fresh: RoutingRecord) -> RoutingRecord:
            replaced[:] = [fresh]
            return without_variant(fresh, alias)

        async with self._one_at_a_time:
            if not force:
                await self._require_no_traffic(alias)
            done, changed = await self._writer.commit(change, by, reason)
        (before,) = replaced
        held = before.variants.get(alias)
        return ClearResponse(
            status="success",
            variant=alias,
            version=None if held is None else held.version,
            generation=done.generation,
            changed=changed,
            traffic_turned_off=changed and has_traffic(before.traffic),
            traffic=done.traffic,
        )

    async def _remove(self, force: bool, by: str, reason: str | None) -> RemovalResponse:
        async with self._one_at_a_time:
            if not force:
                await self._require_no_traffic(A)
            served = self._router.still_served()
            done, changed = await self._writer.commit(removed, by, reason)
        return RemovalResponse("success", self._router.model_name, done.generation, served, changed)

    async def _check_split(self, wanted: RoutingRecord) -> None:
        """Refuse a record in which B answers clients whose requests it cannot read.

        Raises:
            Conflict: it is one.
        """
        a, b = wanted.variants.get(A), wanted.variants.get(B)
        if splits(wanted.traffic) and a is not None and b is not None:
            await self._verifier.require_split(a, b)

    async def _require_no_traffic(self, alias: str) -> None:
        """Make sure that no replica had a request for the variant lately.

        Raises:
            Conflict: one had.
        """
        router = self._router
        own = self._heartbeat.status(router.report())
        found = await self._heartbeat.replica_list(router.model_name, own)
        busy = [replica.id for replica in found.replicas if alias in replica.traffic]
        if busy:
            raise Conflict(
                f"Variant {alias} of {router.model_name} had requests within the last "
                f"{TRAFFIC_SECONDS:g} s, at {', '.join(busy)}; mirrored copies count for B. "
                "Nothing was changed. Stop them first and wait that long, or set force.",
                code="variant_has_traffic",
            )


def _changed_while_verified(alias: str, version: int) -> GenerationConflict:
    return GenerationConflict(
        f"Variant {alias} was changed while version {version} was being verified. Look at /models "
        "and ask again."
    )


def _check_alias(alias: str) -> None:
    if alias not in VARIANTS:
        raise NotFound(
            f"There is no variant {alias!r}; there are {' and '.join(VARIANTS)}.",
            code="unknown_variant",
        )


def _check_version(version: int | None) -> None:
    if version is not None and version < 1:
        raise InvalidInput(
            f"version is {version}; versions start at 1.", field="version", code="out_of_range"
        )


def _answer(
    alias: str, record: RoutingRecord, held: Slot | None, changed: bool, others: tuple[int, ...]
) -> ReloadResponse:
    slot = record.variants[alias]
    return ReloadResponse(
        status="success",
        variant=alias,
        version=slot.version,
        run_id=slot.run_id,
        run_id_source=slot.run_id_source,
        mode=slot.mode,
        generation=record.generation,
        previous_version=None if held is None else held.version,
        changed=changed,
        other_ready_versions=others,
    )
