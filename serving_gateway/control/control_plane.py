"""The use cases that change what is served: reload, rollback, traffic. No HTTP in here.

Each asks Triton at that moment, proves the version with an inference, and writes the routing
record once. Whatever goes wrong before that write leaves everything as it was (I1).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Final, TypeVar

from serving_gateway.contract import (
    VARIANTS,
    ClearResponse,
    Mode,
    ReloadRequest,
    ReloadResponse,
    RollbackRequest,
    RoutingRecord,
    Slot,
    TrafficRequest,
    TrafficResponse,
)
from serving_gateway.control.provenance import check_contract
from serving_gateway.control.registry import Registry
from serving_gateway.control.transitions import (
    choose,
    next_generation,
    previous_slot,
    rolled_back,
    with_slot,
    with_traffic,
)
from serving_gateway.control.verification import VersionVerifier
from serving_gateway.errors import (
    GatewayError,
    GenerationConflict,
    InvalidInput,
    NotFound,
)
from serving_gateway.features.reader import FeatureReader
from serving_gateway.inference.router import Router
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.replication.store import RoutingStore
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 20
"""How often a change is tried again when somebody else wrote first."""

_T = TypeVar("_T")
Change = Callable[[RoutingRecord], RoutingRecord]


class ControlPlane:
    """Changes the routing record.

    Args:
        settings: addresses and limits.
        router: this replica's table, which follows each change at once.
        store: where the record is kept.
        registry: tells the run and the signature of a version; None when there is none.
        metrics: counts the changes.
        features: looks features up; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        store: RoutingStore,
        registry: Registry | None,
        metrics: ModelMetrics,
        features: FeatureReader | None = None,
    ) -> None:
        self._router = router
        self._store = store
        self._metrics = metrics
        self._prover = VersionVerifier(settings, router, registry, features)
        self._one_at_a_time = asyncio.Lock()

    async def reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadResponse:
        """Move a variant to a version that Triton, asked now, has READY.

        Args:
            alias: the variant.
            request: the caller's wishes.
            by: who asks, for the record.

        Raises:
            NotFound: no such variant, or neither Triton nor the registry knows the version.
            Conflict: the version is not READY, its trial inference failed, several are READY
                and none was named, the variant is pinned, the run contradicts the registry, or
                the features are not those that the caller named.
            Unavailable: Triton cannot be asked, nothing is READY, nobody knows the run, or the
                store cannot be written.
        """
        _check_alias(alias)
        return await self._counted("reload", self._reload(alias, request, by))

    async def rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadResponse:
        """Move a variant back to the version before, or to a named one; it is then pinned.

        Raises:
            NotFound: no such variant, or neither Triton nor the registry knows the version.
            Conflict: nothing to go back to, or it is not READY or not registered, or its trial
                inference failed.
            Unavailable: Triton cannot be asked, nobody knows the run of the version named, or
                the store cannot be written.
        """
        _check_alias(alias)
        return await self._counted("rollback", self._rollback(alias, request, by))

    async def clear_variant(
        self, alias: str, *, force: bool, by: str, reason: str | None
    ) -> ClearResponse:
        """Take a variant's version away."""
        raise NotImplementedError(alias, force, by, reason)

    async def set_traffic(self, request: TrafficRequest, by: str) -> TrafficResponse:
        """Change the traffic policy.

        Raises:
            InvalidInput: an impossible share.
            Conflict: B has no version, or the record is not at `expected_generation`.
            Unavailable: the store cannot be written.
        """
        return await self._counted("traffic", self._set_traffic(request, by))

    async def _counted(self, operation: str, work: Coroutine[None, None, _T]) -> _T:
        try:
            result = await work
        except GatewayError as error:
            self._metrics.change(operation, error.code).inc()
            log.warning(
                "a change was refused",
                extra={"operation": operation, "code": error.code, "reason": error.message},
            )
            raise
        self._metrics.change(operation, "success").inc()
        return result

    async def _reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadResponse:
        _check_version(request.version)
        async with self._one_at_a_time:
            record = await self._current()
            place = self._prover.place(alias)
            ready = await self._prover.ready_versions(place)
            choice = choose(record, alias, request, ready)
            version = choice.version
            await self._prover.require_among(ready, place, version)
            held = record.variants.get(alias)
            slot = await self._prover.vouched(record, place, version, choice.mode, request.run_id)
            check_contract(request.feature_contract, slot.signature, place.model_name, version)
            client = await self._prover.prove(slot)

            def change(fresh: RoutingRecord) -> RoutingRecord:
                # The rules are applied again to the record that is really replaced: a pin set
                # meanwhile holds, and a version chosen by rule must still be the chosen one.
                if choose(fresh, alias, request, ready) != choice:
                    raise GenerationConflict(
                        f"Variant {alias} was changed while version {version} was being "
                        "verified. Look at /models and ask again."
                    )
                return with_slot(fresh, alias, slot)

            done, changed = await self._commit(change, by, request.reason, client)
        return _answer(alias, done, held, changed, choice.others)

    async def _rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadResponse:
        _check_version(request.version)
        async with self._one_at_a_time:
            record = await self._current()
            held = record.variants.get(alias)
            before, place = None, self._prover.place(alias)
            if (version := request.version) is None:
                before = previous_slot(record, alias)
                version, place = before.version, self._prover.place_of(before)
            ready = await self._prover.ready_versions(place)
            await self._prover.require_among(ready, place, version)
            slot = before or await self._prover.vouched(record, place, version, Mode.PINNED, None)
            client = await self._prover.prove(slot)

            def change(fresh: RoutingRecord) -> RoutingRecord:
                moved = before is not None and previous_slot(fresh, alias) != before
                if moved or fresh.variants.get(alias) != held:
                    raise GenerationConflict(
                        f"Variant {alias} was changed while version {slot.version} was being "
                        "verified. Look at /models and ask again."
                    )
                return rolled_back(fresh, alias, slot)

            done, changed = await self._commit(change, by, request.reason or "rollback", client)
        others = tuple(version for version in ready if version != slot.version)
        return _answer(alias, done, held, changed, others)

    async def _set_traffic(self, request: TrafficRequest, by: str) -> TrafficResponse:
        def change(fresh: RoutingRecord) -> RoutingRecord:
            expected = request.expected_generation
            if expected is not None and fresh.generation != expected:
                raise GenerationConflict(
                    f"The routing record is at generation {fresh.generation}, not at the "
                    f"expected {expected}. Look at /models and decide again."
                )
            return with_traffic(fresh, request)

        async with self._one_at_a_time:
            done, changed = await self._commit(change, by, request.reason, None)
        return TrafficResponse("success", done.traffic, done.generation, changed)

    async def _current(self) -> RoutingRecord:
        """The record to change: the stored one, or the one in effect when the store lost it."""
        stored = await self._store.read()
        known = self._router.table.record
        return known if known.generation > stored.generation else stored

    async def _commit(
        self, change: Change, by: str, reason: str | None, _proven: VersionClient | None
    ) -> tuple[RoutingRecord, bool]:
        """Apply `change` to the newest record and write it; adopt it here at once.

        Args:
            change: from one record to the next, or to the same when nothing has to change.
            by: who asks, for the record.
            reason: why, for the record.
            _proven: the lane of the slot that was proven: held, so that the one that is routed
                to afterwards is that one.

        Returns:
            The record in effect, and whether it is a new generation.
        """
        for _ in range(_ATTEMPTS):
            stored = await self._store.read()
            known = self._router.table.record
            # A store that lost its content (a cache without persistence, restarted) gets back
            # what is in effect, together with the change.
            base = known if known.generation > stored.generation else stored
            changed = change(base)
            if changed is base and base is stored:
                await self._router.follow(base)
                return base, False
            written = next_generation(base, changed, now=datetime.now(UTC), by=by, reason=reason)
            try:
                await self._store.compare_and_set(stored.generation, written)
            except GenerationConflict:
                continue
            await self._router.follow(written)
            log.info(
                "routing record changed",
                extra={
                    "generation": written.generation,
                    "routed": self._router.still_served(),
                    "by": by,
                    "reason": reason,
                },
            )
            return written, changed is not base
        raise GenerationConflict(
            f"The routing record was changed by others {_ATTEMPTS} times in a row. Try again.",
            retry_after=1,
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
