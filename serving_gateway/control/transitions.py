"""Transitions of a routing record: pure; one that changes nothing returns the same record."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec.structs import replace

from serving_gateway.contract import (
    SWITCH_REASON_CHARACTERS,
    Mode,
    ReloadRequest,
    RoutingRecord,
    Slot,
    Strategy,
    Switch,
    Traffic,
    TrafficRequest,
)
from serving_gateway.errors import Conflict, InvalidInput, VariantUnavailable, VersionNotReady
from serving_gateway.inference.traffic import B
from serving_gateway.replication.records import next_change_time, with_ancestor

KEPT_PREVIOUS: Final = 10
"""Slots that a variant keeps to roll back to."""
KEPT_SWITCHES: Final = 32
"""Latest switches that a variant keeps."""


def choose(
    record: RoutingRecord, alias: str, request: ReloadRequest, ready: tuple[int, ...]
) -> tuple[int, Mode]:
    """Decide on the version and mode of `alias` after a reload, given what Triton has READY.

    `VariantUnavailable` when none is named or READY; `Conflict` when several are READY and none is
    named, or `alias` is pinned.
    """
    current = record.variants.get(alias)
    version = request.version or _follow(alias, current, ready)
    return version, _mode(alias, current, request, version)


def _follow(alias: str, current: Slot | None, ready: tuple[int, ...]) -> int:
    """The version that follows from Triton's answer alone."""
    if not ready:
        raise VariantUnavailable(
            "Triton has no version READY, so there is none to reload onto. Load one, then reload.",
            code="nothing_ready",
        )
    if len(ready) == 1:
        return ready[0]
    if current is not None and current.version in ready:
        return current.version
    listed = ", ".join(map(str, ready))
    own = "no version yet" if current is None else f"version {current.version}, which is not READY"
    raise Conflict(
        f"Versions {listed} are READY and variant {alias} has {own}: name the version to take.",
        code="ambiguous_versions",
    )


def _mode(alias: str, current: Slot | None, request: ReloadRequest, version: int) -> Mode:
    """The mode after the reload; refuses automation that would override a pin."""
    wanted = request.mode
    if wanted is None and request.version is not None:
        wanted = Mode.PINNED
    if current is None or request.unpin:
        return wanted or Mode.SSOT
    if wanted is None and current.version == version:
        return current.mode
    if current.mode is Mode.PINNED and wanted is not Mode.PINNED:
        raise Conflict(
            f"Variant {alias} is pinned to version {current.version} by an operator or a rollback; "
            f'moving it to version {version} by automation needs {{"unpin": true}}.',
            code="variant_pinned",
        )
    return wanted or Mode.SSOT


def with_slot(record: RoutingRecord, alias: str, slot: Slot) -> RoutingRecord:
    """The record with `slot` in `alias`."""
    if record.removed:
        record = replace(record, removed=False)
    current = record.variants.get(alias)
    if current is not None and _is_same_version(current, slot):
        return record
    previous = record.previous
    if current is not None and current.version != slot.version:
        previous = _push_previous(record, alias, current)
    return replace(record, variants={**record.variants, alias: slot}, previous=previous)


def _push_previous(record: RoutingRecord, alias: str, slot: Slot) -> dict[str, tuple[Slot, ...]]:
    """The slots to roll back to, by variant, once `alias` has left `slot`."""
    older = [s for s in record.previous.get(alias, ()) if s.version != slot.version]
    return {**record.previous, alias: (slot, *older)[:KEPT_PREVIOUS]}


def _is_same_version(current: Slot, slot: Slot) -> bool:
    """Whether both serve the same version, whatever is known about its origin."""
    return current == replace(
        slot,
        signature=slot.signature or current.signature,
        run_id_source=current.run_id_source,
        lineage=current.lineage,
    )


def previous_slot(record: RoutingRecord, alias: str) -> Slot:
    """The slot that a rollback of `alias` goes to; `Conflict` when there is no other version."""
    current = record.variants.get(alias)
    for slot in record.previous.get(alias, ()):
        if current is None or slot.version != current.version:
            return slot
    raise Conflict(
        f"Variant {alias} has no earlier version to go back to: it never had another one, or has "
        "gone back already. To go forward again, name the version in a reload.",
        code="nothing_to_roll_back_to",
    )


def roll_back(record: RoutingRecord, alias: str, target: Slot) -> RoutingRecord:
    """The record with `alias` on `target`, pinned.

    A second rollback goes further back, never forward to what was just left. After a rollback to a
    version that the variant never had, only lower versions remain to go back to.
    """
    pinned = replace(target, mode=Mode.PINNED)
    current = record.variants.get(alias)
    if current is not None and _is_same_version(current, pinned):
        return record
    history = record.previous.get(alias, ())
    versions = [slot.version for slot in history]
    if target.version in versions:
        rest = history[versions.index(target.version) + 1 :]
    elif current is not None and current.version == target.version:
        rest = history
    else:
        rest = tuple([slot for slot in history if slot.version < target.version])
    return replace(
        record,
        variants={**record.variants, alias: pinned},
        previous={**record.previous, alias: rest},
        removed=False,
    )


def with_traffic(record: RoutingRecord, request: TrafficRequest) -> RoutingRecord:
    """The record with a new policy; `InvalidInput` for a bad share, `VersionNotReady` without B."""
    percent = request.percent
    if not 0 <= percent <= 100 or abs(percent * 100 - round(percent * 100)) > 1e-6:
        raise InvalidInput(
            f"percent is {percent:g}; it must be from 0 to 100, in steps of 0.01.",
            field="percent",
            code="out_of_range",
        )
    if request.strategy is not Strategy.OFF and percent > 0 and B not in record.variants:
        raise VersionNotReady(
            "Variant B has no version, so it can have no traffic. Reload B first.",
            code="variant_without_version",
        )
    traffic = Traffic(request.strategy, percent, request.salt)
    if traffic == record.traffic:
        return record
    return replace(record, traffic=traffic)


def without_variant(record: RoutingRecord, alias: str) -> RoutingRecord:
    """The record without `alias`'s version, which a rollback restores, and without its traffic."""
    current = record.variants.get(alias)
    if current is None:
        return record
    return replace(
        record,
        variants={name: slot for name, slot in record.variants.items() if name != alias},
        previous=_push_previous(record, alias, current),
        traffic=Traffic() if has_traffic(record.traffic) else record.traffic,
    )


def remove(record: RoutingRecord) -> RoutingRecord:
    """The record of a model that is removed."""
    if record.removed:
        return record
    return RoutingRecord(
        model_name=record.model_name,
        generation=record.generation,
        changed_at=record.changed_at,
        removed=True,
        release=record.release,  # without it, replicas would think that its end was lost
    )


def has_traffic(traffic: Traffic) -> bool:
    """Whether B gets requests or copies of them."""
    return traffic.strategy is not Strategy.OFF and traffic.percent > 0


def is_split(traffic: Traffic) -> bool:
    """Whether B answers clients."""
    return traffic.strategy is Strategy.SPLIT and traffic.percent > 0


def next_generation(
    base: RoutingRecord, changed: RoutingRecord, *, now: datetime, by: str, reason: str | None
) -> RoutingRecord:
    """The `changed` record as the generation after `base`, from which it came.

    A variant that newly routes to another version, or to another run's, gains a switch.
    """
    at, generation = next_change_time(base, now), base.generation + 1
    switches = dict(base.switches)
    for alias, slot in changed.variants.items():
        current, before = base.variants.get(alias), base.switches.get(alias, ())
        if current is not None and (current.version, current.run_id) == (slot.version, slot.run_id):
            continue
        switch = Switch(
            generation=generation,
            version=slot.version,
            run_id=slot.run_id,
            mode=slot.mode,
            previous_version=None if current is None else current.version,
            after=before[0].generation if before else 0,
            at=at,
            by=by,
            reason=None if reason is None else reason[:SWITCH_REASON_CHARACTERS],
        )
        switches[alias] = (switch, *before)[:KEPT_SWITCHES]
    after = replace(
        changed,
        generation=generation,
        changed_at=at,
        changed_by=by,
        reason=reason,
        switches=switches,
    )
    return with_ancestor(after, base)
