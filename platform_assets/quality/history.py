"""The quality of earlier days, from the materializations of `live_quality`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from platform_assets.quality.records import QualityReport

QUALITY_METADATA: Final = "quality"
"""Metadata key of what the next days' pictures show."""
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


def as_metadata(report: QualityReport) -> dg.JsonMetadataValue:
    """Return the metadata that `read_history` reads."""
    return dg.MetadataValue.json(
        [
            {
                "version": one.version,
                "value": _finite(one.value),
                "low": _finite(one.low),
                "high": _finite(one.high),
            }
            for one in report.versions
        ]
    )


def read_history(instance: dg.DagsterInstance, key: dg.AssetKey, day: str) -> list[QualityPoint]:
    """Return the points of the 60 days before a day, the newest word about each."""
    records = instance.fetch_materializations(key, limit=_RECORDS).records
    by_day: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        made, own = record.asset_materialization, record.partition_key
        found = made.metadata.get(QUALITY_METADATA) if made is not None else None
        if isinstance(found, dg.JsonMetadataValue) and own is not None and own < day:
            data: Any = found.data
            by_day.setdefault(own, data)  # the newest materialization comes first
    days = sorted(by_day)[-_DAYS:]
    return [
        QualityPoint(
            one, entry["version"], *(_number(entry[name]) for name in ("value", "low", "high"))
        )
        for one in days
        for entry in by_day[one]
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
