"""Backfill the ledger: switches made outside a run, and those whose run died.

The gateways keep the last switches of each variant, so that none is missed however short it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import dagster as dg

from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.serving.ledger import (
    MANUAL,
    MOST_SWITCHES,
    ROLLBACK,
    UNKNOWN,
    Entry,
    SwitchIdentity,
    parse_reason,
    read_ledger,
)
from platform_assets.serving.ledger_entries import LedgerWriter
from platform_assets.serving.switch_evidence import late_content
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import ModelStatus, Release, ReleaseState, Switch


def backfill_ledger(
    spec: ModelSpec,
    statuses: Sequence[ModelStatus],
    instance: dg.DagsterInstance,
    chain: LedgerFolder,
    repository: ModelRepository,
) -> list[Switch]:
    """Record each switch of production that the ledger lacks, in order, and return them.

    `statuses` are those of the model on each replica; at least one. A failure halfway leaves the
    later ones to the next time; none is recorded twice.
    """
    status = max(statuses, key=lambda one: one.routing.generation)
    if not missing_entries(status, read_ledger(instance, spec)):
        return []
    ledger = read_ledger(instance, spec, limit=MOST_SWITCHES)
    switches = missing_entries(status, ledger)
    recorded = [entry.generation for entry in ledger]
    for switch in switches:
        gap = describe_gap(switch, recorded)
        made_by = _author(switch, status.routing.release, instance)
        content = late_content(
            spec, switch, repository, action=made_by.action, by=made_by.name, gap=gap
        )
        entered = LedgerWriter(spec, chain, instance).enter_switch(content)
        made = _materialization(spec, switch, made_by, gap=gap, entered=entered)
        instance.report_runless_asset_event(made)
        recorded.append(switch.generation)
    return switches


def missing_entries(status: ModelStatus, ledger: Sequence[Entry]) -> list[Switch]:
    """Return the switches of production that a replica knows and the ledger lacks, oldest first.

    Not simply what is newer than the newest entry: a run may have recorded its own switch before
    the manual ones that preceded it were looked for.
    """
    if PRODUCTION not in status.effective:
        return []
    known = [entry.identity for entry in ledger]
    missing = []
    for switch in reversed(status.routing.switches.get(PRODUCTION, ())):
        identity = SwitchIdentity(switch.generation, switch.version, switch.reason or "", switch.at)
        if not any(identity.is_same(other) for other in known):
            missing.append(switch)
    return missing


def describe_gap(switch: Switch, recorded: Sequence[int]) -> str:
    """Return which switches before this one may be missing; empty when none is.

    `recorded` are the generations that are in the ledger.
    """
    reached = any(switch.after <= generation < switch.generation for generation in recorded)
    if reached or not switch.after:
        return ""
    last = max((generation for generation in recorded if generation < switch.generation), default=0)
    since = f"after generation {last} and " if last else ""
    return (
        f"switches {since}before generation {switch.generation} may be missing: "
        "the gateways' record does not reach back to them"
    )


class _Author(NamedTuple):
    """What made a switch."""

    action: str
    name: str
    """The run, the release or the credential."""
    description: str


def _author(switch: Switch, release: Release | None, instance: dg.DagsterInstance) -> _Author:
    made, by = parse_reason(switch.reason or ""), switch.by or UNKNOWN
    if made is not None and instance.has_run(made[1]):
        said = f"Run {made[1]} made this switch, and ended before it could record it"
        return _Author(*made, said)
    if release is not None and _is_end_of(release, switch):
        said = f"The version before took over: the release of version {release.version} ended so"
        return _Author(ROLLBACK, f"release {release.id}", said)
    said = f"Made outside the pipeline, with the gateway's credential {by!r}"
    return _Author(MANUAL, by, said)


def _is_end_of(release: Release, switch: Switch) -> bool:
    """Whether the switch is the rollback that a release ended with."""
    return (
        release.state is ReleaseState.ROLLED_BACK
        and switch.version == release.previous_version
        and release.reason is not None
        and (switch.reason or "").strip().startswith(release.reason)
    )


def _materialization(
    spec: ModelSpec,
    switch: Switch,
    made_by: _Author,
    *,
    gap: str,
    entered: Mapping[str, str | int],
) -> dg.AssetMaterialization:
    said = made_by.description
    return dg.AssetMaterialization(
        dg.AssetKey(spec.key("gateway_reload")),
        description=f"{said}; {gap}." if gap else f"{said}.",
        metadata={
            "version": switch.version,
            "previous_version": switch.previous_version or "none",
            "run_id": switch.run_id,
            "generation": switch.generation,
            "changed": True,
            "action": made_by.action,
            "by": made_by.name,
            "credential": switch.by or UNKNOWN,
            "reason": switch.reason or "",
            "at": switch.at,
            **({"missing": gap} if gap else {}),
            **entered,
        },
    )
