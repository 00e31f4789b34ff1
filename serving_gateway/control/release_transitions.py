"""The transitions of a release within a routing record: pure functions, like `transitions`.

Each returns the whole record, so that a step and its traffic never disagree. `at` is the time of
the change, RFC 3339 in UTC. `Conflict` when the state of the release forbids the change, `NotFound`
when the model has no release; nothing changes then.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from serving_gateway.contract import (
    ACTIVE,
    Approval,
    Mode,
    Release,
    ReleaseAct,
    ReleaseAdvance,
    ReleaseDecision,
    ReleaseRequest,
    ReleaseState,
    RoutingRecord,
    Slot,
    Strategy,
    Traffic,
    Verdict,
)
from serving_gateway.control.transitions import has_traffic, roll_back, with_slot
from serving_gateway.errors import Conflict, InvalidInput, NotFound
from serving_gateway.inference.traffic import A, B

KEPT_ACTS: Final = 50
_REASON_CHARACTERS: Final = 1_000
"""Most characters of a reason, so that the record stays small."""
_MIRROR_ALL: Final = Traffic(Strategy.MIRROR, 100.0)


def active_release(record: RoutingRecord) -> Release | None:
    """The record's release, unless it has ended."""
    release = record.release
    return release if release is not None and release.state in ACTIVE else None


def require_active(record: RoutingRecord, release_id: str | None = None) -> Release:
    """The active release, which must have `release_id` unless that is None."""
    release = record.release
    if release is None:
        raise NotFound(f"{record.model_name} has no release.", code="no_release")
    if release_id not in {None, release.id}:
        raise Conflict(
            f"The present release of {record.model_name} is {release.id}, of version "
            f"{release.version}, not {release_id}. Look at /release and decide again.",
            code="release_changed",
        )
    if release.state not in ACTIVE:
        raise Conflict(
            f"The release of version {release.version} has ended as {release.state.value}"
            f"{'' if release.reason is None else f': {release.reason}'}. Nothing was changed.",
            code="release_ended",
        )
    return release


def begin(
    record: RoutingRecord, request: ReleaseRequest, slot: Slot, release_id: str, at: str, by: str
) -> RoutingRecord:
    """Begin a release of `slot`'s version; the same record if it is under way already."""
    production, present = check_begin(record, request), active_release(record)
    if present is not None and _is_under_way(record, request):
        return record
    waits = request.plan.approval is Approval.BEFORE_TRAFFIC
    release = Release(
        id=release_id,
        version=slot.version,
        run_id=slot.run_id,
        previous_version=production.version,
        plan=request.plan,
        state=ReleaseState.WAITING if waits else ReleaseState.RUNNING,
        step=0,
        since=at,
        started_at=at,
        by=by,
    )
    if present is not None:
        # The only trace of the former release in the record.
        reason = (
            f"stopped the release of version {present.version} ({present.id}), which was "
            f"{present.state.value} in step {present.step + 1} of {len(present.plan.steps)}"
        )
        release = _add_act(release, Verdict.GO, at, by, reason)
    traffic = Traffic() if waits else request.plan.steps[0]
    return replace(with_slot(record, B, slot), release=release, traffic=traffic)


def check_begin(record: RoutingRecord, request: ReleaseRequest) -> Slot:
    """Return production's slot if a release may begin next to it."""
    production, name = record.variants.get(A), record.model_name
    if production is None:
        raise Conflict(
            f"Variant A of {name} has no version to compare with: nothing is in production. "
            "Reload A onto the first version.",
            code="no_production",
        )
    if production.mode is Mode.PINNED:
        raise Conflict(
            f"Variant A of {name} is pinned to version {production.version} by an operator or a "
            'rollback, so no release can begin. Release the pin by a reload with {"unpin": true}.',
            code="variant_pinned",
        )
    if production.version == request.version:
        raise Conflict(
            f"Version {request.version} of {name} is in production already.",
            code="already_in_production",
        )
    present = active_release(record)
    if (
        present is not None
        and present.version == request.version
        and not _is_under_way(record, request)
    ):
        raise Conflict(
            f"Version {request.version} of {name} is being released by another plan or of another "
            "run. Stop that release first.",
            code="release_active",
        )
    return production


def _is_under_way(record: RoutingRecord, request: ReleaseRequest) -> bool:
    release = record.release
    wanted = (request.version, request.run_id, request.plan)
    return release is not None and (release.version, release.run_id, release.plan) == wanted


def advance(record: RoutingRecord, request: ReleaseAdvance, at: str, by: str) -> RoutingRecord:
    """The record after a verdict on the current phase."""
    release = require_active(record, request.id)
    reason = _require_reason(request.reason)
    if (release.state, release.step) != (request.state, request.step):
        raise Conflict(
            f"The release of version {release.version} is {release.state.value} in step "
            f"{release.step}, not {request.state.value} in step {request.step}. Look at /release "
            "and decide again.",
            code="release_changed",
        )
    if request.verdict is Verdict.NOT_YET:
        raise InvalidInput("verdict is not yet; that changes nothing.", field="verdict")
    if request.verdict is Verdict.STOP:
        return _stop(record, release, at, by, reason)
    with_act = _add_act(release, Verdict.GO, at, by, reason)
    if release.state is ReleaseState.WATCHING:
        return _without_candidate(record, _end(with_act, ReleaseState.COMPLETED, at, reason))
    if release.state is not ReleaseState.RUNNING:
        raise Conflict(
            f"The release of version {release.version} is {release.state.value}: "
            f"{missing_for_switch(release)}.",
            code="release_not_running",
        )
    return _after_step(record, with_act, at)


def _after_step(record: RoutingRecord, release: Release, at: str) -> RoutingRecord:
    """The record after a step that ended with go."""
    steps, step = release.plan.steps, release.step + 1
    if step < len(steps):
        entered = replace(release, step=step, since=at)
        return replace(record, release=entered, traffic=steps[step])
    waits = release.plan.approval is Approval.BEFORE_SWITCH
    state = ReleaseState.WAITING if waits else ReleaseState.CLEARED
    return replace(record, release=replace(release, state=state, since=at))


def approve(record: RoutingRecord, request: ReleaseDecision, at: str, by: str) -> RoutingRecord:
    """The record after a named principal's approval, with which a waiting release continues.

    The same record if it has that approval already: its response may have been lost.
    """
    release = require_active(record, request.id)
    reason = _require_reason(request.reason)
    if release.state is not ReleaseState.WAITING:
        if any(act.is_approval and (act.by, act.reason) == (by, reason) for act in release.acts):
            return record
        raise Conflict(
            f"The release of version {release.version} is {release.state.value} in step "
            f"{release.step}; it does not wait for an approval.",
            code="release_not_waiting",
        )
    with_act = _add_act(release, Verdict.GO, at, by, reason, is_approval=True)
    if release.plan.approval is Approval.BEFORE_SWITCH:
        cleared = replace(with_act, state=ReleaseState.CLEARED, since=at)
        return replace(record, release=cleared)
    entered = replace(with_act, state=ReleaseState.RUNNING, since=at)
    return replace(record, release=entered, traffic=release.plan.steps[release.step])


def stop(record: RoutingRecord, request: ReleaseDecision, at: str, by: str) -> RoutingRecord:
    """The record with the release ended; during the watch, this rolls A back and pins it.

    The same record if this very stop has ended it already: its response may have been lost.
    """
    if _is_same_stop(record.release, request, by):
        return record
    release = require_active(record, request.id)
    return _stop(record, release, at, by, _require_reason(request.reason))


def _is_same_stop(release: Release | None, request: ReleaseDecision, by: str) -> bool:
    """Whether this very stop has ended the release."""
    if release is None or release.state in ACTIVE or request.id not in {None, release.id}:
        return False
    acts = [(act.verdict, act.by, act.reason) for act in release.acts[-1:]]
    return acts == [(Verdict.STOP, by, _cut(request.reason))]


def _stop(record: RoutingRecord, release: Release, at: str, by: str, reason: str) -> RoutingRecord:
    with_act = _add_act(release, Verdict.STOP, at, by, reason)
    if release.state is not ReleaseState.WATCHING:
        return _without_candidate(record, _end(with_act, ReleaseState.STOPPED, at, reason))
    back = roll_back(record, A, previous_slot_of(record, release))
    return _without_candidate(back, _end(with_act, ReleaseState.ROLLED_BACK, at, reason))


def previous_slot_of(record: RoutingRecord, release: Release) -> Slot:
    """The slot that a watched release rolls back to."""
    for slot in [*record.variants.values(), *record.previous.get(A, ())]:
        if slot.version == release.previous_version:
            return slot
    raise Conflict(
        f"The routing record no longer holds version {release.previous_version}, which was in "
        f"production before version {release.version}. Name a version in a rollback.",
        code="nothing_to_roll_back_to",
    )


def check_reload(record: RoutingRecord, alias: str, version: int, mode: Mode) -> None:
    """Refuse automation that would switch to a version whose release has not been cleared."""
    release = active_release(record)
    if release is None or alias != A or mode is not Mode.SSOT or version != release.version:
        return
    if release.state not in {ReleaseState.CLEARED, ReleaseState.WATCHING}:
        raise Conflict(
            f"Version {version} is being released and cannot be switched to yet: "
            f"{missing_for_switch(release)}. Variant A stays on version "
            f"{release.previous_version}.",
            code="release_not_cleared",
        )


def missing_for_switch(release: Release) -> str:
    """Return what an active release still needs before the switch, for people."""
    steps = len(release.plan.steps)
    if release.state is ReleaseState.RUNNING:
        return f"it is in step {release.step + 1} of {steps}"
    if release.state is ReleaseState.WAITING:
        what = "traffic" if release.plan.approval is Approval.BEFORE_TRAFFIC else "the switch"
        return f"an approval before {what} is missing (POST .../release/approve)"
    return "nothing is missing" if release.state is ReleaseState.CLEARED else "it was switched to"


def settle(
    base: RoutingRecord, changed: RoutingRecord, at: str, by: str, reason: str | None
) -> RoutingRecord:
    """Apply to the release of `base` the effect of a change made by other means.

    The reload of A onto a cleared version is the switch. Any other change ends the release and
    removes its candidate and its traffic, unless the change itself set these.
    """
    release = active_release(base)
    if release is None or (changed.release is not None and changed.release is not base.release):
        return changed
    moved = {alias for alias in (A, B) if _routes(base, alias) != _routes(changed, alias)}
    has_other_traffic = base.traffic != changed.traffic
    if not (moved or has_other_traffic or changed.removed != base.removed):
        return changed
    if moved == {A} and not has_other_traffic and _is_switch(changed, release):
        return _switch(base, changed, release, at, by, reason)
    why = f"ended by another change: {_describe_change(base, changed)}, by {by}"
    why += "" if reason is None else f": {reason}"
    production = changed.variants.get(A)
    is_rollback = (
        release.state is ReleaseState.WATCHING
        and production is not None
        and production.version == release.previous_version
    )
    state = ReleaseState.ROLLED_BACK if is_rollback else ReleaseState.STOPPED
    ended = _end(_add_act(release, Verdict.STOP, at, by, why), state, at, why)
    if B in moved or (has_other_traffic and has_traffic(changed.traffic)):
        traffic = changed.traffic if has_other_traffic else Traffic()
        return replace(changed, release=ended, traffic=traffic)
    return _without_candidate(changed, ended)


def _is_switch(changed: RoutingRecord, release: Release) -> bool:
    slot = changed.variants.get(A)
    return (
        release.state is ReleaseState.CLEARED
        and slot is not None
        and slot.mode is Mode.SSOT
        and slot.version == release.version
    )


def _switch(
    base: RoutingRecord,
    changed: RoutingRecord,
    release: Release,
    at: str,
    by: str,
    reason: str | None,
) -> RoutingRecord:
    """The record after the switch: the previous version is mirrored, unless there is no watch."""
    with_act = _add_act(release, Verdict.GO, at, by, reason or "switched")
    if release.plan.watch_seconds == 0:
        return _without_candidate(changed, _end(with_act, ReleaseState.COMPLETED, at, None))
    watched = replace(with_act, state=ReleaseState.WATCHING, since=at)
    variants = {**changed.variants, B: base.variants[A]}
    return replace(changed, variants=variants, traffic=_MIRROR_ALL, release=watched)


def _routes(record: RoutingRecord, alias: str) -> tuple[object, ...] | None:
    slot = record.variants.get(alias)
    if slot is None:
        return None
    return slot.version, slot.run_id, slot.mode, slot.model_name, slot.triton_url


def _describe_change(base: RoutingRecord, changed: RoutingRecord) -> str:
    if changed.removed:
        return "the model was removed"
    for alias in (A, B):
        slot = changed.variants.get(alias)
        if _routes(base, alias) == _routes(changed, alias):
            continue
        if slot is None:
            return f"variant {alias} was cleared"
        return f"variant {alias} was set to version {slot.version} ({slot.mode.value})"
    return f"traffic was set to {changed.traffic.strategy.value}, {changed.traffic.percent:g} %"


def _without_candidate(record: RoutingRecord, release: Release) -> RoutingRecord:
    """The record with an ended release and without its B, which a rollback does not restore."""
    variants = {alias: slot for alias, slot in record.variants.items() if alias != B}
    return replace(record, variants=variants, traffic=Traffic(), release=release)


def _end(release: Release, state: ReleaseState, at: str, reason: str | None) -> Release:
    cut = None if reason is None else reason[:_REASON_CHARACTERS]
    return replace(release, state=state, since=at, reason=cut)


def _add_act(
    release: Release, verdict: Verdict, at: str, by: str, reason: str, *, is_approval: bool = False
) -> Release:
    """The release with one more act."""
    cut = reason[:_REASON_CHARACTERS]
    act = ReleaseAct(release.phase, verdict, at, by, cut, is_approval)
    return replace(release, acts=(*release.acts, act)[-KEPT_ACTS:])


def _require_reason(reason: str) -> str:
    if not reason.strip():
        raise InvalidInput(
            "reason is empty; the record keeps why a release was decided on.",
            field="reason",
            code="reason_required",
        )
    return _cut(reason)


def _cut(reason: str) -> str:
    return reason.strip()[:_REASON_CHARACTERS]
