"""The quality of earlier days, from the materializations of `live_quality`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from platform_assets.quality.records import QualityReport
from platform_assets.resources.events import materializations

QUALITY_METADATA: Final = "quality"
"""Metadata key of what the next days' pictures show."""
_NUMBERS: Final = ("value", "low", "high")
_DAYS: Final = 60
_RECORDS: Final = 1_000


@dataclass(frozen=True, slots=True)
class QualityPoint:
    """The quality of a version on one day (ISO 8601); NaN or infinite where undetermined."""

    day: str
    version: int
    value: float
    low: float
    high: float


def day_points(report: QualityReport) -> list[QualityPoint]:
    """Return the points of one day."""
    return [
        QualityPoint(report.day, one.version, one.value, one.low, one.high)
        for one in report.versions
    ]


def as_metadata(points: Sequence[QualityPoint]) -> dg.JsonMetadataValue:
    """Return the metadata of the points of a day that `read_history` reads."""
    return dg.MetadataValue.json(
        [
            {"version": one.version}
            | {
                name: value if math.isfinite(value := getattr(one, name)) else None
                for name in _NUMBERS
            }
            for one in points
        ]
    )


def read_history(instance: dg.DagsterInstance, key: dg.AssetKey, day: str) -> list[QualityPoint]:
    """Return the points of the 60 days before a day, the newest word about each."""
    by_day: dict[str, list[dict[str, Any]]] = {}
    for made in materializations(instance, key.path, _RECORDS):
        if made.partition and made.partition < day and QUALITY_METADATA in made.metadata:
            by_day.setdefault(made.partition, made.metadata[QUALITY_METADATA])
    return [
        QualityPoint(
            one,
            entry["version"],
            *(math.nan if entry[name] is None else entry[name] for name in _NUMBERS),
        )
        for one in sorted(by_day)[-_DAYS:]
        for entry in by_day[one]
    ]
