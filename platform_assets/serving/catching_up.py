"""Enter into the ledger what no run told of it: switches by hand, and those whose run died.

The gateways keep the last switches of each variant, so that none is missed however short it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import dagster as dg
import msgspec

from platform_assets.model_spec import ModelSpec
from platform_assets.serving.ledger import ELSEWHERE, Entry, made_by_run, read_ledger
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import Switch

_FAR_BACK: Final = 500
"""Materializations to look through before a switch counts as not entered."""


def catch_up(
    spec: ModelSpec, pages: Sequence[dict[str, Any]], instance: dg.DagsterInstance
) -> list[Switch]:
    """Enter each switch of production that the ledger lacks, in order, and return them.

    A failure halfway leaves the later ones to the next time; none is entered twice.

    Args:
        spec: the model.
        pages: what the replicas say of it (`GET /models/{model_name}`); at least one.
        instance: keeps the ledger.
    """
    # A replica of a release that keeps no switches shows none, whatever the record holds.
    page = max(pages, key=lambda one: (int(one["routing"]["generation"]), len(_kept(one))))
    if not untold(page, read_ledger(instance, spec)):
        return []
    ledger = read_ledger(instance, spec, limit=_FAR_BACK)
    switches = untold(page, ledger)
    told = [entry.generation for entry in ledger]
    for switch in switches:
        missing = gap_before(switch, told)
        instance.report_runless_asset_event(_materialization(spec, switch, missing, instance))
        told.append(switch.generation)
    return switches


def untold(page: dict[str, Any], ledger: Sequence[Entry]) -> list[Switch]:
    """Return the switches of production that a replica's page tells of and the ledger lacks.

    Oldest first. Not simply what is newer than the newest entry: a run may have told of its own
    switch before anybody looked at those by hand that preceded it.
    """
    slot = page["effective"].get(PRODUCTION)
    if slot is None:
        return []
    known = {(entry.generation, entry.version) for entry in ledger}
    if kept := _kept(page):
        switches = reversed(kept)
        return [one for one in switches if (one.generation, one.version) not in known]
    # The record comes from a release that kept no switches: what is there now is all it tells.
    newest, routing = ledger[0] if ledger else None, page["routing"]
    generation, version = int(routing["generation"]), int(slot["version"])
    if newest and (newest.generation >= generation or newest.version == version):
        return []
    return [
        Switch(
            generation=generation,
            version=version,
            run_id=slot["run_id"],
            mode=slot["mode"],
            previous_version=newest.version if newest else None,
            after=generation - 1,
            at=routing["changed_at"],
            by=routing["changed_by"] or "",
            reason=routing["reason"],
        )
    ]


def gap_before(switch: Switch, told: Sequence[int]) -> str:
    """Return which switches before this one may be missing; empty when none is.

    Args:
        switch: the one to be entered.
        told: generations that are in the ledger.
    """
    reached = any(switch.after <= generation < switch.generation for generation in told)
    if reached or not switch.after:
        return ""
    last = max((generation for generation in told if generation < switch.generation), default=0)
    since = f"after generation {last} and " if last else ""
    return (
        f"switches {since}before generation {switch.generation} may be missing: "
        "the gateways' record does not reach back to them"
    )


def _kept(page: dict[str, Any]) -> list[Switch]:
    """The last switches of production, newest first."""
    return msgspec.convert(page["routing"].get("switches", {}).get(PRODUCTION, ()), list[Switch])


def _materialization(
    spec: ModelSpec, switch: Switch, missing: str, instance: dg.DagsterInstance
) -> dg.AssetMaterialization:
    reason = switch.reason or ""
    action, by = ELSEWHERE, switch.by or "somebody"
    told = "A gateway was asked for this switch; the pipeline did not make it"
    made = made_by_run(reason)
    if made is not None and instance.has_run(made[1]):
        action, by = made
        told = f"Run {by} made this switch, and ended before it could say so"
    return dg.AssetMaterialization(
        dg.AssetKey(spec.key("gateway_reload")),
        description=f"{told}; {missing}." if missing else f"{told}.",
        metadata={
            "version": switch.version,
            "previous_version": switch.previous_version or "none",
            "run_id": switch.run_id,
            "generation": switch.generation,
            "changed": True,
            "action": action,
            "by": by,
            "reason": reason,
            "at": switch.at,
            **({"missing": missing} if missing else {}),
        },
    )
