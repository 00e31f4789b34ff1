"""What the blocking checks of the features measure; reads Parquet, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from platform_assets.features.records import FeatureData
from platform_assets.features.spec import FeatureSpec, ModelSpec
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Range:
    """One line of the range report: what is allowed, what was found, how many lie outside."""

    column: str
    allowed: str
    found: str
    outside: int


def schema_differences(data: FeatureData, spec: ModelSpec) -> dict[str, str]:
    """Return column -> "expected X, found Y" for every column that is not as declared."""
    from pyarrow import parquet

    found = {
        field.name: str(field.type)
        for path in (data.features_path, data.labels_path)
        for field in parquet.read_schema(path)
    }
    expected = expected_types(spec)
    return {
        name: f"expected {expected.get(name, 'no such column')}, found {found.get(name, 'none')}"
        for name in sorted(expected | found)
        if expected.get(name) != found.get(name)
    }


def expected_types(spec: ModelSpec) -> dict[str, str]:
    """Return column -> Arrow type name of both files together."""
    names = {
        DType.FP32: "float",
        DType.FP64: "double",
        DType.INT64: "int64",
        DType.BOOL: "bool",
        DType.BYTES: "string",
    }
    return {
        spec.join_key: "int64",
        spec.event_timestamp: "timestamp[us, tz=UTC]",
        **{feature.name: names[feature.dtype] for feature in spec.features},
        spec.target: "int64",
    }


def null_counts(data: FeatureData) -> dict[str, int]:
    """Return column -> number of nulls, of both files; NaN counts as null."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    counts: dict[str, int] = {}
    for path in (data.features_path, data.labels_path):
        table = parquet.read_table(path)
        for name in table.column_names:
            column = table[name]
            nan = pa.types.is_floating(column.type) and compute.sum(compute.is_nan(column)).as_py()
            counts[name] = column.null_count + int(nan or 0)
    return counts


def range_report(data: FeatureData, spec: ModelSpec, now: datetime | None = None) -> list[Range]:
    """Measure each feature, and the event timestamp, against what is allowed.

    A value that is not finite is outside. Timestamps must not lie after `now` (UTC).
    """
    from pyarrow import parquet

    now = now or datetime.now(UTC)
    numeric = [f for f in spec.features if f.dtype in {DType.FP32, DType.FP64, DType.INT64}]
    table = parquet.read_table(
        data.features_path, columns=[spec.event_timestamp, *(f.name for f in numeric)]
    )
    report = [_feature_range(table[feature.name], feature) for feature in numeric]
    report.append(_time_range(table[spec.event_timestamp], spec.event_timestamp, now))
    return report


def _feature_range(column: pa.ChunkedArray, feature: FeatureSpec) -> Range:
    from pyarrow import compute as pc

    outside = pc.invert(pc.is_finite(column))
    if feature.minimum is not None:
        outside = pc.or_(outside, pc.less(column, feature.minimum))
    if feature.maximum is not None:
        outside = pc.or_(outside, pc.greater(column, feature.maximum))
    extremes = pc.min_max(column).as_py()
    low = "any" if feature.minimum is None else f"{feature.minimum:g}"
    high = "any" if feature.maximum is None else f"{feature.maximum:g}"
    return Range(
        feature.name,
        f"{low} .. {high}",
        f"{extremes['min']:g} .. {extremes['max']:g}",
        int(pc.sum(outside).as_py() or 0),
    )


def _time_range(column: pa.ChunkedArray, name: str, now: datetime) -> Range:
    import pyarrow as pa
    from pyarrow import compute as pc

    extremes = pc.min_max(column).as_py()
    late = pc.greater(column, pa.scalar(now, type=column.type))
    return Range(
        name,
        f"until {now.isoformat(timespec='seconds')}",
        f"{extremes['min'].isoformat()} .. {extremes['max'].isoformat()}",
        int(pc.sum(late).as_py() or 0),
    )
