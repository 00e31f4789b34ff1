"""The training frame: labels joined with what was known at their time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platform_assets.features.records import FeatureData
from platform_assets.features.spec import ModelSpec
from platform_assets.features.storage import check_current
from platform_assets.training.selection import Rows, TrainingError

if TYPE_CHECKING:
    from platform_assets.resources.feast import FeastResource


def training_rows(feast: FeastResource, data: FeatureData, spec: ModelSpec) -> Rows:
    """Join features to the labels, point in time, out of Feast's offline store.

    The rows are sorted by event time and entity, so the same data gives the same rows.

    Raises:
        FeatureStoreError: Feast cannot join.
        StaleDataError: the files hold other data than `data` says.
        TrainingError: a label has no observation at or before its time.
    """
    import numpy as np
    import pandas as pd

    check_current(data)
    labels = pd.read_parquet(data.labels_path)
    joined = feast.historical(labels, spec.feature_service)
    check_current(data)
    names = list(spec.feature_names)
    known = joined.dropna(subset=names)
    if len(known) != len(labels):
        raise TrainingError(
            f"{len(labels) - len(known)} of {len(labels)} labels have no complete observation "
            f"at or before their {spec.event_timestamp}"
        )
    known = known.sort_values([spec.event_timestamp, spec.join_key], kind="stable")
    return Rows(
        values=np.ascontiguousarray(known[names].to_numpy(dtype=np.float32)),
        labels=known[spec.target].to_numpy(dtype=np.int64),
        groups=known[spec.join_key].to_numpy(dtype=np.int64),
    )
