"""Why a row cannot be scored, by its values: what the gateway refuses in a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from platform_assets.scoring.records import REASON
from serving_gateway.contract import DType, Feature


def with_reasons(rows: pa.RecordBatch, features: Sequence[Feature]) -> pa.Array:
    """Return the reason of each row, null for those that can be scored.

    Reasons that the rows bring along come first, then those of the features in their order.
    """
    reasons = rows[REASON].cast(pa.string())
    for mask, reason in _problems(rows, features):
        if pc.any(mask).as_py():
            found = pc.if_else(mask, pa.scalar(reason), pa.scalar(None, pa.string()))
            reasons = pc.coalesce(reasons, found)
    return reasons


def _problems(
    rows: pa.RecordBatch, features: Sequence[Feature]
) -> Iterator[tuple[pa.BooleanArray, str]]:
    for feature in features:
        values = rows[feature.name]
        if not feature.nullable:
            missing = values.is_null()
            if feature.dtype is DType.BYTES:
                missing = pc.or_(missing, pc.fill_null(pc.equal(values, ""), False))
            yield missing, f"{feature.name} is missing"
        if feature.dtype in (DType.FP32, DType.FP64):
            yield pc.fill_null(pc.is_inf(values), False), f"{feature.name} is infinite"
