"""Offline and online store compared for sampled entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from platform_assets.features.records import FeatureData
from platform_assets.features.spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

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

    keys = pd.read_parquet(data.labels_path, columns=[spec.join_key, spec.event_timestamp])
    ids = sorted(keys[spec.join_key].unique().tolist())
    sample = ids[:: max(1, -(-len(ids) // SAMPLE))]
    names = list(spec.feature_names)
    entities = pd.DataFrame({spec.join_key: sample})
    entities[spec.event_timestamp] = keys[spec.event_timestamp].max()
    offline = feast.historical(entities, spec.feature_service).set_index(spec.join_key)
    online = feast.online(spec.join_key, sample, spec.feature_service).set_index(spec.join_key)
    offline, online = offline.reindex(sample)[names], online.reindex(sample)[names]
    differing = [
        f"{spec.join_key} {one}, {name}: offline {offline.at[one, name]!r}, "
        f"online {online.at[one, name]!r}"
        for name in names
        for one in offline.index[_differ(offline[name], online[name])]
    ]
    return Comparison(len(sample), len(sample) * len(names), differing)


def _differ(left: pd.Series[float], right: pd.Series[float]) -> pd.Series[bool]:
    # A value that only one side has differs; so does one that neither has: nothing was
    # materialized for an entity that exists.
    return (left != right) | left.isna() | right.isna()
