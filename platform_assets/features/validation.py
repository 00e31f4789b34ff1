"""What the blocking checks of the features measure; reads Parquet, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from platform_assets.features.records import FeatureData
from platform_assets.features.sources.columns import arrow_type
from platform_assets.model_spec import FeatureSpec, ModelSpec

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
    key, target = spec.join_key, spec.target
    return {
        key.name: str(arrow_type(key.dtype)),
        spec.event_timestamp: "timestamp[us, tz=UTC]",
        **{feature.name: str(arrow_type(feature.dtype)) for feature in spec.features},
        target.name: str(arrow_type(target.dtype)),
    }


def null_counts(data: FeatureData) -> dict[str, int]:
    """Return column -> number of missing values, of both files.

    NaN and empty text count too: neither should be there.
    """
    from pyarrow import parquet

    return {
        name: _missing(parquet.read_table(path, columns=[name])[name])
        for path in (data.features_path, data.labels_path)
        for name in parquet.read_schema(path).names
    }


def _missing(column: pa.ChunkedArray) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    count = int(column.null_count)
    if pa.types.is_floating(column.type):
        count += int(pc.sum(pc.is_nan(column)).as_py() or 0)
    elif pa.types.is_string(column.type):
        count += int(pc.sum(pc.equal(pc.binary_length(column), 0)).as_py() or 0)
    return count


def forbidden_nulls(counts: dict[str, int], spec: ModelSpec) -> dict[str, int]:
    """Those of `null_counts` that may not be: of all columns but the nullable features."""
    nullable = {feature.name for feature in spec.features if feature.nullable}
    return {name: count for name, count in counts.items() if count and name not in nullable}


def range_report(data: FeatureData, spec: ModelSpec, now: datetime | None = None) -> list[Range]:
    """Measure each numeric feature, and the event timestamp, against what is allowed.

    A value that is not finite is outside; a missing one is not. Timestamps must not lie after
    `now` (UTC).
    """
    now = now or datetime.now(UTC)
    report = [
        _feature_range(_column(data, feature.name), feature)
        for feature in spec.features
        if feature.numeric
    ]
    report.append(_time_range(_column(data, spec.event_timestamp), spec.event_timestamp, now))
    return report


def _column(data: FeatureData, name: str) -> pa.ChunkedArray:
    from pyarrow import parquet

    return parquet.read_table(data.features_path, columns=[name])[name]


def _feature_range(column: pa.ChunkedArray, feature: FeatureSpec) -> Range:
    from pyarrow import compute as pc

    outside = pc.invert(pc.is_finite(column))
    if feature.minimum is not None:
        outside = pc.or_(outside, pc.less(column, _bound(feature.minimum, column)))
    if feature.maximum is not None:
        outside = pc.or_(outside, pc.greater(column, _bound(feature.maximum, column)))
    extremes = pc.min_max(column).as_py()
    low = "any" if feature.minimum is None else f"{feature.minimum:g}"
    high = "any" if feature.maximum is None else f"{feature.maximum:g}"
    found = "nothing" if extremes["min"] is None else f"{extremes['min']:g} .. {extremes['max']:g}"
    return Range(feature.name, f"{low} .. {high}", found, int(pc.sum(outside).as_py() or 0))


def _bound(value: float, column: pa.ChunkedArray) -> pa.Scalar:
    """A bound as precise as the column: 0.1 in single precision is greater than in double."""
    import pyarrow as pa

    return pa.scalar(value, column.type if pa.types.is_floating(column.type) else pa.float64())


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
