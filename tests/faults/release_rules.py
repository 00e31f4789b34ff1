"""What a routing record with a release must look like after any history: pure."""

from __future__ import annotations

from typing import Final

from serving_gateway.contract import (
    ACTIVE,
    Approval,
    Mode,
    ReleasePlan,
    ReleaseState,
    RoutingRecord,
    Strategy,
    Traffic,
)
from serving_gateway.inference.traffic import A, B

MIRROR: Final = Traffic(Strategy.MIRROR, 100.0)
PLANS: Final = tuple(
    ReleasePlan(steps, approval=approval, watch_seconds=watch)
    for steps in (
        (MIRROR,),
        (MIRROR, Traffic(Strategy.SPLIT, 1.0), Traffic(Strategy.SPLIT, 50.0)),
    )
    for approval in Approval
    for watch in (0.0, 60.0)
)


def is_active(record: RoutingRecord) -> bool:
    """Whether a release is under way."""
    return record.release is not None and record.release.state in ACTIVE


def contradiction(record: RoutingRecord) -> str | None:
    """What a record says that its release forbids; None where it is sound."""
    release = record.release
    if release is None or not is_active(record):
        return None
    versions = {alias: slot.version for alias, slot in record.variants.items()}
    if release.state is ReleaseState.WATCHING:
        wanted = {A: release.version, B: release.previous_version}
        traffic = MIRROR
    else:
        wanted = {A: release.previous_version, B: release.version}
        has_begun = release.state is not ReleaseState.WAITING or (
            release.plan.approval is not Approval.BEFORE_TRAFFIC
        )
        traffic = release.plan.steps[release.step] if has_begun else Traffic()
    if versions != wanted:
        return f"a release that is {release.state} routes to {versions}, not {wanted}"
    if record.traffic != traffic:
        return f"B has {record.traffic} outside the step of its release, not {traffic}"
    if record.variants[A].mode is Mode.PINNED:
        return "production is pinned, and a release goes on"
    return None


def broken_step(base: RoutingRecord, after: RoutingRecord, *, is_automatic: bool) -> str | None:
    """What the step from one record to the next one does to a release and must not."""
    if not is_active(base) or base.release is None:
        return None
    was, held = base.release, after.variants.get(A)
    has_switched = held is not None and held.version == was.version
    if is_automatic and has_switched and was.state in {ReleaseState.RUNNING, ReleaseState.WAITING}:
        return "automation switched to a version whose release is not cleared"
    now = after.release
    if now is None or now.id != was.id:
        return None if now is not None and is_active(after) else "a release vanished"
    if now.step < was.step or (was.state not in ACTIVE and now.state in ACTIVE):
        return "a release went back"
    if now.state is ReleaseState.STOPPED and held is not None and is_automatic and has_switched:
        return "a stopped release is in production"
    return None
