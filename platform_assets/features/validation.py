"""What the range check measures of the rows that were read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from platform_assets.model_spec import FeatureSpec, ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far the clocks of a source and of this machine may differ."""


@dataclass(frozen=True, slots=True)
class Range:
    """One line of the range report: what is allowed, what was found, how many lie outside."""

    column: str
    allowed: str
    found: str
    outside: int


def range_report(table: pa.Table, spec: ModelSpec, now: datetime | None = None) -> list[Range]:
    """Measure each numeric feature, and the event timestamp, against what is allowed.

    A missing value is not outside. Timestamps must not lie after `now` (UTC), save for what
    clocks may differ by.
    """
    now = (now or datetime.now(UTC)) + CLOCK_SKEW
    features = [feature for feature in spec.features if feature.numeric]
    return [
        *(_feature_range(table[feature.name], feature) for feature in features),
        _time_range(table[spec.event_timestamp], spec.event_timestamp, now),
    ]


def _feature_range(column: pa.ChunkedArray, feature: FeatureSpec) -> Range:
    import pyarrow.compute as pc

    outside = pc.invert(pc.is_finite(column))
    bounds = {pc.less: feature.minimum, pc.greater: feature.maximum}
    for beyond, bound in bounds.items():
        if bound is not None:
            outside = pc.or_(outside, beyond(column, _bound(bound, column)))
    extremes = pc.min_max(column).as_py()
    low, high = ("any" if bound is None else f"{bound:g}" for bound in bounds.values())
    found = "nothing" if extremes["min"] is None else f"{extremes['min']:g} .. {extremes['max']:g}"
    return Range(feature.name, f"{low} .. {high}", found, int(pc.sum(outside).as_py() or 0))


def _bound(value: float, column: pa.ChunkedArray) -> pa.Scalar:
    """A bound as precise as the column: 0.1 in single precision is greater than in double."""
    import pyarrow as pa

    return pa.scalar(value, column.type if pa.types.is_floating(column.type) else pa.float64())


def _time_range(column: pa.ChunkedArray, name: str, now: datetime) -> Range:
    import pyarrow as pa
    import pyarrow.compute as pc

    first, last = (one.isoformat() for one in pc.min_max(column).as_py().values())
    late = pc.sum(pc.greater(column, pa.scalar(now, type=column.type))).as_py()
    return Range(name, f"until {now.isoformat(timespec='seconds')}", f"{first} .. {last}", late)
