"""The check of live quality: it warns, and stops nothing."""

from __future__ import annotations

from typing import Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.records import QualityReport
from platform_assets.quality.verdict import find_shortfalls, summary

KEPT: Final = "quality_kept"


def quality_check(spec: ModelSpec) -> dg.AssetCheckSpec:
    """Return what `live_quality` checks of the day that it has measured."""
    return dg.AssetCheckSpec(
        KEPT,
        asset=spec.key("live_quality"),
        description=(
            f"The bounds of {spec.evaluation.metric} on matured predictions exclude neither the "
            f"floor {spec.gates.metric_floor:g} nor the "
            "version's estimate on held-out rows."
        ),
    )


def quality_check_result(report: QualityReport) -> dg.AssetCheckResult:
    """Judge a day; one without matured outcomes passes."""
    broken = find_shortfalls(report)
    return dg.AssetCheckResult(
        check_name=KEPT,
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(broken) or summary(report),
        metadata={
            "day": report.day,
            "floor": report.floor,
            "judged": bool(report.versions),
            "broken": "\n".join(broken) or "nothing",
        },
    )
