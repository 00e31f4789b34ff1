"""A report of live quality as Dagster's pages show it."""

from __future__ import annotations

from typing import Any

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.checks import summary
from platform_assets.quality.history import QUALITY_METADATA, as_metadata, day_points, read_history
from platform_assets.quality.pictures import quality_picture
from platform_assets.quality.records import OfflineEstimate, QualityReport
from platform_assets.resources.metadata import picture, table
from platform_assets.serving.ledger import read_ledger


def quality_metadata(
    instance: dg.DagsterInstance, spec: ModelSpec, report: QualityReport
) -> dict[str, Any]:
    """Return what Dagster shows of a report: the newest lines first, then counts."""
    before = read_history(instance, dg.AssetKey(spec.key("live_quality")), report.day)
    today = day_points(report)
    points = [*before, *today]
    switches = read_ledger(instance, spec)
    counts = report.counts
    shown = {
        "picture": picture(quality_picture(report, points, switches), "live quality by day"),
    }
    return {
        "summary": summary(report),
        **(shown if points else {}),
        "versions": table(_lines(report)) if report.versions else "none measured",
        "coverage": "unknown" if counts.coverage is None else counts.coverage,
        "dagster/row_count": counts.predictions,
        **{
            name: getattr(counts, name)
            for name in ("matured", "answered", "late", "duplicate", "contradicting")
        },
        "unmatched": counts.unmatched,
        "unusable": counts.unusable,
        "files_set_aside": counts.files_set_aside,
        "floor": report.floor,
        QUALITY_METADATA: as_metadata(today),
    }


def _lines(report: QualityReport) -> list[dict[str, str]]:
    lines = []
    for one in report.versions:
        offline = report.offline.get(one.version, "unknown")
        estimate = offline
        if isinstance(offline, OfflineEstimate):
            estimate = f"{offline.value:.4g} ({offline.low:.4g} to {offline.high:.4g})"
        lines.append(
            {
                "version": str(one.version),
                "rows": f"{one.rows:,}",
                report.metric: f"{one.value:.4g}",
                "bounds": f"{one.low:.4g} to {one.high:.4g}",
                "which": one.bounds,
                "measured rows": f"{one.measured_rows:,}",
                "held-out rows": str(estimate),
            }
        )
    return lines
