"""The pilot's records: materializations of `[model, release]`, and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.release.pictures import EvidencePoint, evidence_picture
from platform_assets.resources.events import materializations
from platform_assets.resources.metadata import picture, plain_markdown, table
from serving_gateway.contract import (
    WATCH,
    Guard,
    GuardReport,
    Release,
    ReleaseAct,
    ReleaseState,
    Strategy,
    Verdict,
    describe_guard,
)

RELEASE: Final = "release"
"""Name of the asset."""
RELEASE_ID: Final = "release_id"
NUMBERS: Final = "numbers"
"""Metadata keys: the release, and the bounds of its guards for the next picture."""
_POINTS: Final = 200
_AFTER_SWITCH: Final = frozenset(
    {ReleaseState.WATCHING, ReleaseState.COMPLETED, ReleaseState.ROLLED_BACK}
)
"""States of a release that is judged by what was counted after its switch."""

Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


def release_key(spec: ModelSpec) -> dg.AssetKey:
    """Return the asset key of a model's releases."""
    return dg.AssetKey(spec.key(RELEASE))


def describe_place(release: Release) -> str:
    """Describe briefly where a release is."""
    steps, state = release.plan.steps, release.state
    if state is ReleaseState.STOPPED and release.acts and release.acts[-1].phase == WATCH:
        return "stopped while it was watched, after the switch"
    if state not in {ReleaseState.RUNNING, ReleaseState.WAITING}:
        return state.value.replace("_", " ")
    step = steps[release.step]
    share = "all requests mirrored" if step.strategy is Strategy.MIRROR else f"{step.percent:g} %"
    waits = ", waits for an approval" if state is ReleaseState.WAITING else ""
    return f"step {release.step + 1} of {len(steps)}, {share}{waits}"


def decision_events(
    spec: ModelSpec,
    release: Release,
    guards: Sequence[GuardReport],
    verdict: Verdict,
    reason: str,
    now: datetime,
    instance: dg.DagsterInstance,
) -> tuple[dg.AssetMaterialization, list[dg.AssetCheckEvaluation]]:
    """Return the record of a decision, or of a change of state made elsewhere."""
    shown: dict[str, Any] = {
        "version": release.version,
        "verdict": verdict.value,
        "state": describe_place(release),
        "reason": reason,
        "previous_version": release.previous_version,
    }
    if guards:
        bounds = {report.guard: (report.low, report.value, report.high) for report in guards}
        points = [*_past_points(spec, release, instance), EvidencePoint(now.timestamp(), bounds)]
        drawn = evidence_picture(points, {report.guard: report.margin for report in guards})
        shown["guardrails"] = table(_row(report) for report in guards)
        shown["evidence"] = picture(drawn, "the bounds of each guardrail over time, and its margin")
        shown[NUMBERS] = dg.MetadataValue.json(
            {guard.value: [*three] for guard, three in bounds.items()}
        )
    if release.acts:
        shown["acts"] = dg.MetadataValue.md("\n".join(map(_act_line, release.acts)))
    shown[RELEASE_ID] = release.id
    materialization = dg.AssetMaterialization(release_key(spec), description=reason, metadata=shown)
    return materialization, [guard_evaluation(spec, release, report) for report in guards]


def _act_line(act: ReleaseAct) -> str:
    what = "approval" if act.is_approval else act.verdict.value
    return f"- {act.at}, {act.by}: {what}: {plain_markdown(act.reason)}"


def guard_evaluation(
    spec: ModelSpec, release: Release, report: GuardReport
) -> dg.AssetCheckEvaluation:
    """Return the verdict on a guard as its check's evaluation, failed when the guard is broken."""
    return dg.AssetCheckEvaluation(
        asset_key=release_key(spec),
        check_name=report.guard.value,
        passed=report.verdict is not Verdict.STOP,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{_WORDS[report.verdict]}: {describe_guard(report)}",
        metadata={"version": release.version, **_row(report)},
    )


_WORDS: Final = {
    Verdict.GO: "within its margin",
    Verdict.STOP: "beyond its margin",
    Verdict.NOT_YET: "not decided yet",
}


def _row(report: GuardReport) -> dict[str, Any]:
    return {
        "guardrail": report.guard.value,
        "verdict": report.verdict.value,
        "value": _number(report.value),
        "low": _number(report.low),
        "high": _number(report.high),
        "margin": f"{report.margin:g}",
        "observations": report.observations,
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _past_points(
    spec: ModelSpec, release: Release, instance: dg.DagsterInstance
) -> list[EvidencePoint]:
    """Return points of a release's earlier records on this side of its switch, oldest first."""
    is_after_switch = release.state in _AFTER_SWITCH
    points: list[EvidencePoint] = []
    for materialization in materializations(instance, spec.key(RELEASE), _POINTS):
        metadata = materialization.metadata
        if RELEASE_ID not in metadata:
            continue
        is_watch = metadata["state"] == ReleaseState.WATCHING.value
        if metadata[RELEASE_ID] != release.id or is_watch != is_after_switch:
            break
        if NUMBERS in metadata:
            bounds = {Guard(name): tuple(three) for name, three in metadata[NUMBERS].items()}
            points.insert(0, EvidencePoint(materialization.at.timestamp(), bounds))
    return points
