"""Records that the feature assets pass on: where the data is, never the data itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from platform_assets.model_spec import Label


@dataclass(frozen=True, slots=True)
class FeatureData:
    """A validated source, written for Feast.

    `name` is that of the model or the feature table. `source` names the source for people,
    without secrets. `features_path` and `labels_path` are absolute paths of Parquet files, empty
    where there is none: a feature table has no labels, a model of several tables no features of
    its own, but `tables`. Files that are external are written by others, at any time.
    `fingerprint` is the SHA-256 of the source's content (64 lower-case hexadecimal digits); of what
    a training learned from, that of its final labels.
    `classes` are the labels in the order of the probabilities, () for a regression; `nulls` counts
    the missing values per feature.
    """

    name: str
    source: str
    features_path: str
    labels_path: str
    rows: int
    entities: int
    fingerprint: str
    classes: tuple[Label, ...] = ()
    nulls: Mapping[str, int] = field(default_factory=dict)
    tables: tuple[FeatureData, ...] = ()
    is_external: bool = False

    @property
    def data_fingerprint(self) -> str:
        """The fingerprint of all that a model learns from: the source and its tables."""
        return data_fingerprint(self.fingerprint, [one.fingerprint for one in self.tables])

    @property
    def files(self) -> tuple[str, ...]:
        """Absolute paths of the files of this source that the platform writes."""
        return (
            ()
            if self.is_external
            else tuple(path for path in (self.features_path, self.labels_path) if path)
        )


def final_fingerprint(labels: str, rows: int) -> str:
    """Return the fingerprint of the final ones among labels, of which there are so many.

    They are the oldest labels of the source, so their number says which.
    """
    return hashlib.sha256(f"{labels}\n{rows}".encode()).hexdigest()


def data_fingerprint(own: str, tables: Sequence[str]) -> str:
    """Return the fingerprint of a source together with those of feature tables, in their order."""
    if not tables:
        return own
    return hashlib.sha256("\n".join((own, *tables)).encode()).hexdigest()
