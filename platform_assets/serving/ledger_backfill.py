"""Backfill the ledger: switches made outside a run, and those whose run died.

The gateways keep the last switches of each variant, so that even short-lived ones are recorded.
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

    `statuses` are those of the model on each replica; at least one. After a failure, the next call
    records the remaining switches; none is recorded twice.
    """
    status = max(statuses, key=lambda replica: replica.routing.generation)
    if not missing_entries(status, read_ledger(instance, spec)):
        return []
    ledger = read_ledger(instance, spec, limit=MOST_SWITCHES)
    switches = missing_entries(status, ledger)
    recorded = [entry.generation for entry in ledger]
    for switch in switches:
        gap = describe_gap(switch, recorded)
        author = _author(switch, status.routing.release, instance)
        content = late_content(
            spec, switch, repository, action=author.action, by=author.name, gap=gap
        )
        entered = LedgerWriter(spec, chain, instance).enter_switch(content)
        event = _materialization(spec, switch, author, gap=gap, entered=entered)
        instance.report_runless_asset_event(event)
        recorded.append(switch.generation)
    return switches


def missing_entries(status: ModelStatus, ledger: Sequence[Entry]) -> list[Switch]:
    """Return the switches of production that a replica knows and the ledger lacks, oldest first.

    It is not enough to compare with the newest entry: a run may have recorded its own switch before
    the preceding manual ones were discovered.
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
    """Return which switches before this one may be missing; empty if none is.

    `recorded` are the generations in the ledger.
    """
    is_gapless = any(switch.after <= generation < switch.generation for generation in recorded)
    if is_gapless or not switch.after:
        return ""
    last = max((generation for generation in recorded if generation < switch.generation), default=0)
    since = f"after generation {last} and " if last else ""
    return (
        f"switches {since}before generation {switch.generation} may be missing: "
        "the gateways' record does not reach back to them"
    )


class _Author(NamedTuple):
    """The author of a switch."""

    action: str
    name: str
    """The run, the release or the credential."""
    description: str


def _author(switch: Switch, release: Release | None, instance: dg.DagsterInstance) -> _Author:
    parsed, by = parse_reason(switch.reason or ""), switch.by or UNKNOWN
    if parsed is not None and instance.has_run(parsed[1]):
        description = f"Run {parsed[1]} made this switch, and ended before it could record it"
        return _Author(*parsed, description)
    if release is not None and _is_end_of(release, switch):
        description = (
            f"The version before took over: the release of version {release.version} ended so"
        )
        return _Author(ROLLBACK, f"release {release.id}", description)
    description = f"Made outside the pipeline, with the gateway's credential {by!r}"
    return _Author(MANUAL, by, description)


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
    author: _Author,
    *,
    gap: str,
    entered: Mapping[str, str | int],
) -> dg.AssetMaterialization:
    description = author.description
    return dg.AssetMaterialization(
        dg.AssetKey(spec.key("gateway_reload")),
        description=f"{description}; {gap}." if gap else f"{description}.",
        metadata={
            "version": switch.version,
            "previous_version": switch.previous_version or "none",
            "run_id": switch.run_id,
            "generation": switch.generation,
            "changed": True,
            "action": author.action,
            "by": author.name,
            "credential": switch.by or UNKNOWN,
            "reason": switch.reason or "",
            "at": switch.at,
            **({"missing": gap} if gap else {}),
            **entered,
        },
    )
