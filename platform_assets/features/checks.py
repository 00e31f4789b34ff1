"""Checks of the features, with their measurements as metadata."""

# No postponed annotations here: Dagster reads them.
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import dagster as dg

from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import SourceTable
from platform_assets.model_spec import FeatureSpec, FeatureTableSpec, ModelSpec, SourceSpec
from platform_assets.resources.failures import feast_failures
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.metadata import table

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far the clocks of a source and of this machine may differ."""


@dataclass(frozen=True, slots=True)
class RangeLine:
    """One line of the range report: the allowed range, the observed one, the number outside."""

    column: str
    allowed: str
    found: str
    outside: int


def feature_checks(spec: SourceSpec) -> list[dg.AssetChecksDefinition]:
    """Build the checks of `online_features`, where it fills a view; `features` yields its own."""
    by_others = isinstance(spec, FeatureTableSpec) and spec.is_external
    of_tables = isinstance(spec, ModelSpec) and spec.tables
    return [] if by_others or of_tables else [_online_equals_offline(spec)]


def source_checks(spec: SourceSpec) -> list[dg.AssetCheckSpec]:
    """Return the specs of the checks that `features` evaluates on its rows in memory."""
    key = spec.key("features")
    ranges = "Every feature lies within its declared range, no event in the future."
    losses = "Reading changed nothing that may count: digits of 32-bit floats, keys with zeros."
    return [
        dg.AssetCheckSpec("ranges", asset=key, blocking=True, description=ranges),
        dg.AssetCheckSpec("losses", asset=key, description=losses),
    ]


def source_check_results(source: SourceTable, spec: SourceSpec) -> list[dg.AssetCheckResult]:
    """Evaluate the checks of `source_checks`."""
    report, rows = range_report(source.table, spec), source.table.num_rows
    outside = [
        f"{line.column}: {line.outside} of {rows} rows outside {line.allowed} (found {line.found})"
        for line in report
        if line.outside
    ]
    ranges = dg.AssetCheckResult(
        check_name="ranges",
        passed=not outside,
        description="; ".join(outside) or None,
        metadata={
            "rows": rows,
            "rows_outside": sum(line.outside for line in report),
            "ranges": table(map(asdict, report)),
        },
    )
    losses = dg.AssetCheckResult(
        check_name="losses",
        passed=not source.warnings,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(source.warnings) or None,
    )
    return [ranges, losses]


def _online_equals_offline(spec: SourceSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(spec.key("online_features")),
        name="online_equals_offline",
        blocking=True,
        description=(
            "For sampled entities the online store has the newest values of the offline store."
        ),
    )
    def online_equals_offline(
        online_features: FeatureData, feast: FeastResource
    ) -> dg.AssetCheckResult:
        from platform_assets.features.consistency import compare_online

        with feast_failures():
            result = compare_online(feast, online_features, spec)
        return dg.AssetCheckResult(
            passed=not result.differing,
            description=(
                f"{len(result.differing)} of {result.values} values differ: materialize "
                "online_features again, which then writes all rows"
                if result.differing
                else None
            ),
            metadata={
                "entities_sampled": result.entities,
                "entities_expired": result.expired,
                "values_compared": result.values,
                "values_differing": len(result.differing),
                "examples": dg.MetadataValue.json(result.differing[:10]),
            },
        )

    return online_equals_offline


def range_report(table: Any, spec: SourceSpec, now: datetime | None = None) -> list[RangeLine]:
    """Compare each numeric feature of an Arrow table, and its times, with the allowed range.

    A missing value is not outside. Timestamps must not lie after `now` (UTC), except by what
    clocks may differ.
    """
    now = (now or datetime.now(UTC)) + CLOCK_SKEW
    features = [feature for feature in spec.features if feature.numeric]
    return [
        *(_feature_range(table[feature.name], feature) for feature in features),
        _time_range(table[spec.event_timestamp], spec.event_timestamp, now),
    ]


def _feature_range(column: Any, feature: FeatureSpec) -> RangeLine:
    import pyarrow as pa
    import pyarrow.compute as pc

    outside = pc.invert(pc.is_finite(column))
    bounds = feature.minimum, feature.maximum
    # Compare in the column's precision: 0.1 in single precision is greater than in double, and
    # doubles cannot distinguish large integers.
    least, greatest = bounds if pa.types.is_floating(column.type) else _whole_bounds(*bounds)
    for beyond, bound in ((pc.less, least), (pc.greater, greatest)):
        if bound is not None:
            outside = pc.or_(outside, beyond(column, pa.scalar(bound, column.type)))
    extremes = pc.min_max(column).as_py()
    low, high = ("any" if bound is None else f"{bound:g}" for bound in bounds)
    actual = "nothing" if extremes["min"] is None else f"{extremes['min']:g} .. {extremes['max']:g}"
    return RangeLine(feature.name, f"{low} .. {high}", actual, int(pc.sum(outside).as_py() or 0))


def _whole_bounds(minimum: float | None, maximum: float | None) -> tuple[int | None, int | None]:
    """Return the same bounds as 64-bit integers."""
    least = None if minimum is None else math.ceil(_clip_to_int64(minimum))
    return least, None if maximum is None else math.floor(_clip_to_int64(maximum))


def _clip_to_int64(bound: float) -> float:
    return min(max(bound, -(2**63)), 2**63 - 1)


def _time_range(column: Any, name: str, now: datetime) -> RangeLine:
    import pyarrow as pa
    import pyarrow.compute as pc

    first, last = (moment.isoformat() for moment in pc.min_max(column).as_py().values())
    late = pc.sum(pc.greater(column, pa.scalar(now, type=column.type))).as_py()
    return RangeLine(name, f"until {now.isoformat(timespec='seconds')}", f"{first} .. {last}", late)
