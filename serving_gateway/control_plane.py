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

import msgspec

from serving_gateway.contract import (
    VARIANTS,
    ReloadAnswer,
    ReloadRequest,
    RollbackRequest,
    RoutingRecord,
    Slot,
    Traffic,
    TrafficRequest,
)
from serving_gateway.errors import (
    Conflict,
    DeadlineExceeded,
    GatewayError,
    GenerationConflict,
    InvalidInput,
    NotFound,
    RegistryUnavailable,
    TritonUnavailable,
    VersionNotReady,
)
from serving_gateway.metrics import ModelMetrics
from serving_gateway.registry import Registry
from serving_gateway.routing import B
from serving_gateway.serving import Lane, Serving
from serving_gateway.settings import Settings
from serving_gateway.store import RoutingStore
from serving_gateway.transitions import (
    choose,
    next_generation,
    previous_slot,
    rolled_back,
    with_slot,
    with_traffic,
)
from serving_gateway.vouching import vouch

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 20
"""How often a change is tried again when somebody else wrote first."""

_T = TypeVar("_T")
Change = Callable[[RoutingRecord], RoutingRecord]


class TrafficAnswer(msgspec.Struct, frozen=True):
    """Body of a traffic change that was carried out."""

    status: str
    traffic: Traffic
    generation: int
    changed: bool


class ControlPlane:
    """Changes the routing record.

    Args:
        settings: addresses and limits.
        serving: this replica's table, which follows each change at once.
        store: where the record is kept.
        registry: tells the run and the signature of a version; None when there is none.
        metrics: counts the changes.
    """

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        store: RoutingStore,
        registry: Registry | None,
        metrics: ModelMetrics,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()

    async def reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadAnswer:
        """Move a variant to a version that Triton, asked now, has READY.

        Args:
            alias: the variant.
            request: the caller's wishes.
            by: who asks, for the record.

        Raises:
            NotFound: no such variant, or neither Triton nor the registry knows the version.
            Conflict: the version is not READY, its trial inference failed, several are READY
                and none was named, the variant is pinned, or the run contradicts the registry.
            Unavailable: Triton cannot be asked, nothing is READY, nobody knows the run, or the
                store cannot be written.
        """
        _check_alias(alias)
        return await self._counted("reload", self._reload(alias, request, by))

    async def rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadAnswer:
        """Move a variant back to the version before, when that is READY; it is then pinned.

        Raises:
            NotFound: no such variant.
            Conflict: nothing to go back to, or it is not READY, or its trial inference failed.
            Unavailable: Triton cannot be asked, or the store cannot be written.
        """
        _check_alias(alias)
        return await self._counted("rollback", self._rollback(alias, request, by))

    async def set_traffic(self, request: TrafficRequest, by: str) -> TrafficAnswer:
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

    async def _reload(self, alias: str, request: ReloadRequest, by: str) -> ReloadAnswer:
        if request.version is not None and request.version < 1:
            raise InvalidInput(
                f"version is {request.version}; versions start at 1.",
                field="version",
                code="out_of_range",
            )
        async with self._one_at_a_time:
            record = await self._current()
            url, model_name = self._whereabouts(alias)
            triton = self._serving.triton(url)
            name = model_name or record.model_name
            ready = await self._ready_versions(alias, name)
            choice = choose(record, alias, request, ready)
            version = choice.version
            if version not in ready:
                await self._refuse_not_ready(name, version, ready, triton.url)
            held = record.variants.get(alias)
            run_id, source, signature = await vouch(
                self._registry, record, name, version, request.run_id
            )
            slot = Slot(
                version=version,
                run_id=run_id,
                run_id_source=source,
                mode=choice.mode,
                signature=signature,
                model_name=model_name,
                triton_url=url,
            )
            lane = await self._prove(slot)

            def change(fresh: RoutingRecord) -> RoutingRecord:
                # The rules are applied again to the record that is really replaced: a pin set
                # meanwhile holds, and a version chosen by rule must still be the chosen one.
                if choose(fresh, alias, request, ready) != choice:
                    raise GenerationConflict(
                        f"Variant {alias} was changed while version {version} was being "
                        "verified. Look at /models and ask again."
                    )
                return with_slot(fresh, alias, slot)

            done, changed = await self._commit(change, by, request.reason, lane)
        return _answer(alias, done, held, changed, choice.others)

    async def _rollback(self, alias: str, request: RollbackRequest, by: str) -> ReloadAnswer:
        async with self._one_at_a_time:
            record = await self._current()
            held = record.variants.get(alias)
            slot = previous_slot(record, alias)
            name = slot.model_name or record.model_name
            triton = self._serving.triton(slot.triton_url)
            ready = await triton.ready_versions(name, self._settings.probe_seconds)
            if slot.version not in ready:
                await self._refuse_not_ready(name, slot.version, ready, triton.url)
            lane = await self._prove(slot)

            def change(fresh: RoutingRecord) -> RoutingRecord:
                if previous_slot(fresh, alias) != slot or fresh.variants.get(alias) != held:
                    raise GenerationConflict(
                        f"Variant {alias} was changed while version {slot.version} was being "
                        "verified. Look at /models and ask again."
                    )
                return rolled_back(fresh, alias)

            done, changed = await self._commit(change, by, request.reason or "rollback", lane)
        others = tuple(version for version in ready if version != slot.version)
        return _answer(alias, done, held, changed, others)

    async def _set_traffic(self, request: TrafficRequest, by: str) -> TrafficAnswer:
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
        return TrafficAnswer("success", done.traffic, done.generation, changed)

    def _whereabouts(self, alias: str) -> tuple[str | None, str | None]:
        """Triton's address and model name of a variant, where they differ from the default."""
        if alias != B:
            return None, None
        # Another name for B is that of the default model's B alone.
        own = self._serving.model_name == self._settings.model_name
        name = self._settings.shadow_model_name if own else None
        return self._settings.shadow_triton_url, name

    async def _ready_versions(self, alias: str, model_name: str) -> tuple[int, ...]:
        """What Triton says is READY, asked now; no answer at all is 503 here."""
        triton = self._serving.triton(self._whereabouts(alias)[0])
        try:
            return await triton.ready_versions(model_name, self._settings.probe_seconds)
        except DeadlineExceeded as error:
            raise TritonUnavailable(error.message) from error

    async def _refuse_not_ready(
        self, model_name: str, version: int, ready: tuple[int, ...], url: str
    ) -> None:
        """Say why `version` is refused: unknown to all (404), or not READY (409)."""
        listed = ", ".join(map(str, ready)) or "none"
        if self._registry is not None:
            try:
                known = await self._registry.version(model_name, version)
            except (RegistryUnavailable, Conflict):
                pass  # it may well exist, so it is "not READY"
            else:
                if known is None:
                    raise NotFound(
                        f"{model_name} version {version} is neither in Triton (READY: {listed}) "
                        "nor in the registry.",
                        code="unknown_version",
                    )
        raise VersionNotReady(
            f"Triton at {url} does not have {model_name} version {version} READY "
            f"(READY: {listed}). Load it first, then reload."
        )

    async def _prove(self, slot: Slot) -> Lane:
        """Confirm READY by the versioned endpoint and run a trial inference."""
        lane = self._serving.lane(slot)
        try:
            await lane.require_ready()
        except DeadlineExceeded as error:
            raise TritonUnavailable(error.message) from error
        await lane.warm_up()
        lane.confirm()
        return lane

    async def _current(self) -> RoutingRecord:
        """The record to change: the stored one, or the one in effect when the store lost it."""
        stored = await self._store.read()
        known = self._serving.table.record
        return known if known.generation > stored.generation else stored

    async def _commit(
        self, change: Change, by: str, reason: str | None, _proven: Lane | None
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
            known = self._serving.table.record
            # A store that lost its content (a cache without persistence, restarted) gets back
            # what is in effect, together with the change.
            base = known if known.generation > stored.generation else stored
            changed = change(base)
            if changed is base and base is stored:
                await self._serving.follow(base)
                return base, False
            written = next_generation(changed, now=datetime.now(UTC), by=by, reason=reason)
            try:
                await self._store.compare_and_set(stored.generation, written)
            except GenerationConflict:
                continue
            await self._serving.follow(written)
            log.info(
                "routing record changed",
                extra={
                    "generation": written.generation,
                    "routed": self._serving.still_served(),
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


def _answer(
    alias: str, record: RoutingRecord, held: Slot | None, changed: bool, others: tuple[int, ...]
) -> ReloadAnswer:
    slot = record.variants[alias]
    return ReloadAnswer(
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
