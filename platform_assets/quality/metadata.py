"""A report of live quality as metadata for Dagster's UI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.checks import summary
from platform_assets.quality.pictures import quality_picture
from platform_assets.quality.records import OfflineEstimate, QualityPoint, QualityReport
from platform_assets.resources.events import materializations
from platform_assets.resources.metadata import picture, table
from platform_assets.serving.ledger import read_ledger

QUALITY_METADATA: Final = "quality"
"""Metadata key of the points for the next days' pictures."""
_NUMBERS: Final = ("value", "low", "high")
_DAYS: Final = 60
_RECORDS: Final = 1_000


def quality_metadata(
    instance: dg.DagsterInstance, spec: ModelSpec, report: QualityReport
) -> dict[str, Any]:
    """Return the metadata of a report: first the lines by version, then counts."""
    before = read_history(instance, dg.AssetKey(spec.key("live_quality")), report.day)
    today = [
        QualityPoint(report.day, version.version, version.value, version.low, version.high)
        for version in report.versions
    ]
    points = [*before, *today]
    counts = report.counts
    shown: dict[str, Any] = {}
    if points:
        drawn = quality_picture(report, points, read_ledger(instance, spec))
        shown["picture"] = picture(drawn, "live quality by day")
    return {
        "summary": summary(report),
        **shown,
        "versions": table(_lines(report)) if report.versions else "none measured",
        "coverage": "unknown" if counts.coverage is None else counts.coverage,
        "dagster/row_count": counts.predictions,
        **{name: number for name, number in asdict(counts).items() if name != "predictions"},
        "floor": report.floor,
        QUALITY_METADATA: _as_metadata(today),
    }


def _lines(report: QualityReport) -> list[dict[str, str]]:
    lines = []
    for version in report.versions:
        offline = report.offline.get(version.version, "unknown")
        estimate = offline
        if isinstance(offline, OfflineEstimate):
            estimate = f"{offline.value:.4g} ({offline.low:.4g} to {offline.high:.4g})"
        lines.append(
            {
                "version": str(version.version),
                "rows": f"{version.rows:,}",
                report.metric: f"{version.value:.4g}",
                "bounds": f"{version.low:.4g} to {version.high:.4g}",
                "which": version.bounds,
                "measured rows": f"{version.measured_rows:,}",
                "held-out rows": str(estimate),
            }
        )
    return lines


def _as_metadata(points: Sequence[QualityPoint]) -> dg.JsonMetadataValue:
    """Return the points of a day as metadata for `read_history`."""
    return dg.MetadataValue.json(
        [
            {"version": point.version}
            | {
                name: value if math.isfinite(value := getattr(point, name)) else None
                for name in _NUMBERS
            }
            for point in points
        ]
    )


def read_history(instance: dg.DagsterInstance, key: dg.AssetKey, day: str) -> list[QualityPoint]:
    """Return the points of the 60 days before a day, the newest record of each."""
    by_day: dict[str, list[dict[str, Any]]] = {}
    for materialization in materializations(instance, key.path, _RECORDS):
        if (
            materialization.partition
            and materialization.partition < day
            and QUALITY_METADATA in materialization.metadata
        ):
            by_day.setdefault(materialization.partition, materialization.metadata[QUALITY_METADATA])
    return [
        QualityPoint(
            one,
            entry["version"],
            *(math.nan if entry[name] is None else entry[name] for name in _NUMBERS),
        )
        for one in sorted(by_day)[-_DAYS:]
        for entry in by_day[one]
    ]
