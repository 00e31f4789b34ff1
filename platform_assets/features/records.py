"""Records that the feature assets pass on: where the data is, never the data itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from platform_assets.model_spec import Label


@dataclass(frozen=True, slots=True)
class FeatureData:
    """A validated source, written for Feast.

    `source` names the source for people, without secrets. `features_path` and `labels_path`
    are absolute paths of Parquet files; `fingerprint` is the SHA-256 of the source's content
    (64 lower-case hexadecimal digits). `classes` are the labels in the order of the
    probabilities, () for a regression; `nulls` counts the missing values per feature.
    """

    model_name: str
    source: str
    features_path: str
    labels_path: str
    rows: int
    entities: int
    fingerprint: str
    classes: tuple[Label, ...] = ()
    nulls: Mapping[str, int] = field(default_factory=dict)
