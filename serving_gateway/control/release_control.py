"""The use cases of a release: begin, advance, approve, stop. No HTTP here.

Each writes the routing record once, and leaves it unchanged on failure. Only a stop takes effect
before it is written: at once on this replica, which then retries the write until it succeeds.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from serving_gateway.contract import (
    Mode,
    Release,
    ReleaseAdvance,
    ReleaseDecision,
    ReleaseRequest,
    ReleaseResponse,
    ReleaseState,
    ReloadRequest,
    RoutingRecord,
    Strategy,
    Verdict,
)
from serving_gateway.control import release_transitions, transitions
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.provenance import check_contract, resolve_slot
from serving_gateway.control.release_plans import check_plan
from serving_gateway.errors import GatewayError, GenerationConflict, StoreUnavailable
from serving_gateway.inference.traffic import A, B
from serving_gateway.replication.pending_stops import PendingStop, PendingStops
from serving_gateway.replication.records import format_time

log = logging.getLogger(__name__)

_Transition = Callable[[RoutingRecord, str], RoutingRecord]
"""Maps a record and the time of the change to the record after it."""


@dataclass(slots=True, eq=False)
class ReleaseControl:
    """Changes the release of one model; `by` identifies the caller.

    All methods raise `NotFound` without a release, `Conflict` when its state or the versions forbid
    the change, `InvalidInput` for a bad plan or a missing reason, and `Unavailable` when Triton or
    the store cannot be reached.
    """

    control: ControlPlane
    stops: PendingStops
    pending: PendingStop | None = field(default=None, init=False)
    _is_saved: bool = field(default=False, init=False)
    """Whether `pending` is in a file for the process that starts after this one."""

    def __post_init__(self) -> None:
        # A stop that the previous process could not write takes effect before anything is answered.
        router = self.control.router
        self.pending = self.stops.read(router.model_name)
        if self.pending is not None:
            self._is_saved = True
            router.withdraw(self.pending.release_id)

    async def begin(self, request: ReleaseRequest, by: str) -> ReleaseResponse:
        """Put a READY version into B, verified as by a reload, and enter the first step."""
        control, verifier = self.control, self.control.verifier
        async with control.open_change("release", B, request.version):
            check_plan(request.plan)
            record = await control.writer.current()
            production = release_transitions.check_begin(record, request)
            # Where A's versions are served: the candidate is to become one of them.
            upstream = verifier.upstream(A)
            ready = await verifier.ready_versions(upstream)
            wish = ReloadRequest(request.version, mode=Mode.SSOT)
            choice = transitions.choose(record, B, wish, ready)
            await verifier.require_ready(ready, upstream, request.version)
            slot = await resolve_slot(
                verifier.registry, record, upstream, *choice, claimed=request.run_id
            )
            check_contract(request.feature_contract, slot, upstream.model_name)
            client = await verifier.verify(slot)
            if any(step.strategy is Strategy.SPLIT for step in request.plan.steps):
                await verifier.require_split(production, slot)
            release_id = secrets.token_hex(8)

            def change(fresh: RoutingRecord, at: str) -> RoutingRecord:
                if fresh.variants.get(A) != record.variants.get(A):
                    raise GenerationConflict(
                        "Variant A was changed while the candidate was being verified. Look at "
                        "/models and ask again."
                    )
                transitions.choose(fresh, B, wish, ready)
                return release_transitions.begin(fresh, request, slot, release_id, at, by)

            response = await self._commit(change, by, request.reason)
            del client  # held until adoption
        return response

    async def advance(self, request: ReleaseAdvance, by: str) -> ReleaseResponse:
        """Carry out the verdict on the current phase, unless the release has moved on meanwhile."""
        async with self.control.open_change("release_advance", waits=False):
            record = await self.control.writer.current()
            if request.verdict is Verdict.STOP:
                await self._require_rollback_target(record)
            return await self._commit(
                lambda fresh, at: release_transitions.advance(fresh, request, at, by),
                by,
                request.reason,
            )

    async def approve(self, request: ReleaseDecision, by: str) -> ReleaseResponse:
        """Approve what a waiting release waits for."""
        async with self.control.open_change("release_approve", waits=False):
            return await self._commit(
                lambda fresh, at: release_transitions.approve(fresh, request, at, by),
                by,
                request.reason,
            )

    async def stop(self, request: ReleaseDecision, by: str) -> ReleaseResponse:
        """End the release: A answers all clients; one that is being watched is rolled back, pinned.

        This replica does so at once, whether or not the store can be written: if it cannot, the
        version before a switch answers as B until the rollback is written.
        """
        router = self.control.router
        async with self.control.open_change("release_stop", waits=False):
            # Checked against the record known here, so that an invalid call has no effect.
            known = router.record
            release, pending = known.release, self.pending
            if release_transitions.active_release(known) is not None:
                release_transitions.stop(known, request, known.changed_at or "", by)
                await self._require_rollback_target(known)
                assert release is not None  # noqa: S101 -- it is active
                router.withdraw(release.id)
                pending = PendingStop(release.id, by, request.reason)
            try:
                response = await self._write_stop(request, by)
            except (StoreUnavailable, GenerationConflict) as error:
                if release is None or not router.is_withdrawn:
                    raise
                self.pending = pending
                log.warning(
                    "a stop of a release is in effect here, and not written yet",
                    extra={"model": known.model_name, "by": by, "reason": error.message},
                )
                await self._save_pending()
                return ReleaseResponse("stop_pending", release, known.generation, changed=False)
            except GatewayError:
                router.withdraw(None if self.pending is None else self.pending.release_id)
                raise
            self.pending = pending
            return response

    async def write_pending_stop(self) -> None:
        """Write the last stop if its release is still active in the record.

        It may be even after the stop was written: a store may lose that and accept another change.
        """
        pending, known = self.pending, self.control.router.record
        if pending is None or known.release is None or known.release.id != pending.release_id:
            return
        if release_transitions.active_release(known) is None:
            await self._drop_saved()
            return
        decision = ReleaseDecision(pending.reason, pending.release_id)
        try:
            await self._write_stop(decision, pending.by)
        except GatewayError as error:
            # Another replica may have written it first; the next look goes by that record.
            log.debug("a stop of a release was not written", extra={"reason": error.message})

    async def _write_stop(self, request: ReleaseDecision, by: str) -> ReleaseResponse:
        # The store may have a switch that this replica does not know of yet.
        await self._require_rollback_target(await self.control.writer.current())
        return await self._commit(
            lambda fresh, at: release_transitions.stop(fresh, request, at, by), by, request.reason
        )

    async def _save_pending(self) -> None:
        """Save the stop, so that the process that starts after this one continues it."""
        if self.pending is None:
            return
        name = self.control.router.model_name
        try:
            await self.stops.keep(name, self.pending)
            self._is_saved = True
        except OSError as error:
            log.warning(
                "a stop of a release would be forgotten by a restart: it cannot be kept in a file",
                extra={"model": name, "reason": str(error)},
            )

    async def _drop_saved(self) -> None:
        """Delete the saved stop: it was written, so no later process needs it."""
        if self._is_saved and self.pending is not None:
            with contextlib.suppress(OSError):  # retried at the next look
                await self.stops.drop(self.control.router.model_name, self.pending)
                self._is_saved = False

    async def _require_rollback_target(self, record: RoutingRecord) -> None:
        """Refuse to roll back to a version that Triton does not have READY."""
        release = release_transitions.active_release(record)
        if release is None or release.state is not ReleaseState.WATCHING:
            return
        slot = release_transitions.previous_slot_of(record, release)
        verifier = self.control.verifier
        upstream = verifier.upstream_of(slot)
        await verifier.require_ready(
            await verifier.ready_versions(upstream), upstream, slot.version
        )

    async def _commit(self, change: _Transition, by: str, reason: str | None) -> ReleaseResponse:
        def change_now(fresh: RoutingRecord) -> RoutingRecord:
            # Not the record's `changed_at`, which a clock that once was ahead keeps ahead: a step
            # that begins in the future would never end.
            return change(fresh, format_time(datetime.now(UTC)))

        record, is_new = await self.control.writer.commit(change_now, by, reason)
        return ReleaseResponse("success", _release_of(record), record.generation, is_new)


def _release_of(record: RoutingRecord) -> Release:
    assert record.release is not None  # noqa: S101 -- each transition leaves one
    return record.release
