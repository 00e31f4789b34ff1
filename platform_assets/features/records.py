"""What the feature assets hand on: where the data is, never the data itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureData:
    """A validated source, written for Feast.

    `features_path` and `labels_path` are absolute paths of Parquet files; `fingerprint` is
    the SHA-256 of the source's bytes (64 lower-case hexadecimal digits).
    """

    source_path: str
    features_path: str
    labels_path: str
    rows: int
    entities: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """Features that Feast serves: applied, materialized, and from which data."""

    feature_service: str
    feature_view: str
    online_store: str
    entities: int
    data: FeatureData
