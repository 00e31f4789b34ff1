"""Offline and online store compared for sampled entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.records import FeatureData
from platform_assets.model_spec import FeatureSpec, ModelSpec
from serving_gateway.contract import DType

if TYPE_CHECKING:
    from platform_assets.resources.feast import FeastResource

SAMPLE: Final = 200
"""Entities compared; evenly spread over the sorted ids, so the same ones each time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many values were compared, and which differ."""

    entities: int
    values: int
    differing: list[str]


def compare_online(feast: FeastResource, data: FeatureData, spec: ModelSpec) -> Comparison:
    """Compare the newest offline values with the online ones, bit by bit.

    Raises:
        FeatureStoreError: Feast or a store of it does not answer.
    """
    import pandas as pd
    import pyarrow.compute as pc
    from pyarrow import parquet

    key, time = spec.join_key.name, spec.event_timestamp
    keys = parquet.read_table(data.features_path, columns=[key, time])
    ids = sorted(pc.unique(keys[key]).to_pylist())
    sample = ids[:: max(1, -(-len(ids) // SAMPLE))]
    entities = pd.DataFrame({key: sample})
    entities[time] = pd.Timestamp(pc.max(keys[time]).as_py())
    offline = feast.historical(entities, spec.feature_service).set_index(key).reindex(sample)
    online = feast.online(key, sample, spec.feature_service).set_index(key).reindex(sample)
    differing = [
        f"{key} {one}, {feature.name}: offline {left!r}, online {right!r}"
        for feature in spec.features
        for one, left, right in zip(
            sample,
            [_plain(value, feature) for value in offline[feature.name]],
            [_plain(value, feature) for value in online[feature.name]],
            strict=True,
        )
        # A value that only one side has differs. So does one that neither has where there
        # must be one: nothing was materialized for an entity that exists.
        if left != right or (left is None and not feature.nullable)
    ]
    return Comparison(len(sample), len(sample) * len(spec.features), differing)


def _plain(value: Any, feature: FeatureSpec) -> bool | float | int | str | None:
    """A value of either side as Python's own; pandas has several ways to say missing.

    A whole number that may be missing is a float, as in pandas and in the model's tensor.
    """
    import numpy as np
    import pandas as pd

    if pd.isna(value):
        return None
    if feature.dtype is DType.BYTES:
        return str(value)
    if feature.dtype is DType.BOOL:
        return bool(value)
    if feature.dtype is DType.INT64 and not feature.nullable:
        return int(value)
    return float(np.float32(value) if feature.dtype is DType.FP32 else value)
