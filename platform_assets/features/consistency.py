"""Compare the offline and the online store for sampled entities."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from platform_assets.features.newest import newest_times
from platform_assets.features.records import FeatureData
from platform_assets.model_spec import FeatureSpec, SourceSpec
from serving_gateway.contract import DType

if TYPE_CHECKING:
    from platform_assets.resources.feast import FeastResource
    from platform_assets.resources.feast_online import OnlineRow

SAMPLE: Final = 200
"""Entities compared, evenly spread over the sorted ids, so the same ones each time."""
_ZONES_DIFFER: Final = timedelta(hours=1)
"""Feast's SQLite store keeps local times, which are off by this around clock changes."""


@dataclass(frozen=True, slots=True)
class OnlineComparison:
    """How many values were compared, and which of them differ.

    `expired` counts entities older than the model's `ttl`, which the gateway does not serve.
    """

    entities: int
    values: int
    expired: int
    differing: list[str]


def compare_online(feast: FeastResource, data: FeatureData, spec: SourceSpec) -> OnlineComparison:
    """Compare each entity's newest offline values with the online ones, bit by bit."""
    key, time = spec.join_key.name, spec.event_timestamp
    newest = newest_times(data, spec)
    sample = [*newest][:: max(1, -(-len(newest) // SAMPLE))]
    times = [newest[id_] for id_ in sample]
    entities = pd.DataFrame({key: sample, time: pd.to_datetime(times, utc=True)})
    offline = feast.historical(entities, spec.feature_view).set_index(key).reindex(sample)
    view = feast.online(spec.feature_view)
    differing = [
        difference
        for row, id_, at in zip(view.read(sample), sample, times, strict=True)
        for difference in _differences(f"{key} {id_}", offline.loc[id_], row, at, spec)
    ]
    if differing:
        view.mark("")  # so that the next materialization writes all rows
    ages = [datetime.now(UTC) - at for at in times]
    expired = sum(age > spec.ttl for age in ages) if spec.expires_after else 0
    return OnlineComparison(len(sample), len(sample) * len(spec.features), expired, differing)


def _differences(
    entity: str, offline: Any, online: OnlineRow, at: datetime, spec: SourceSpec
) -> list[str]:
    differing = []
    for feature in spec.features:
        offline_value = _to_python(offline[feature.name], feature)
        online_value = _to_python(online.values.get(feature.name), feature)
        # A value that only one side has differs. So does a required one that both lack: nothing
        # was materialized for an entity that exists.
        if offline_value != online_value or (offline_value is None and not feature.nullable):
            differing.append(
                f"{entity}, {feature.name}: offline {offline_value!r}, online {online_value!r}"
            )
    if online.observed_at and abs(online.observed_at - at) > _ZONES_DIFFER:
        differing.append(
            f"{entity}, {spec.event_timestamp}: offline {at}, online {online.observed_at}"
        )
    return differing


def _to_python(value: Any, feature: FeatureSpec) -> bool | float | int | str | None:
    """Return a value of either side as a plain Python one, None for any of pandas' missing values.

    A nullable integer becomes a float, as in pandas and in the model's tensor.
    """
    if pd.isna(value):
        return None
    if feature.dtype is DType.BYTES:
        return str(value)
    if feature.dtype is DType.BOOL:
        return bool(value)
    if feature.dtype is DType.INT64 and not feature.nullable:
        return int(value)
    return float(np.float32(value) if feature.dtype is DType.FP32 else value)
