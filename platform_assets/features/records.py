"""Records that the feature assets pass on: where the data is, never the data itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from platform_assets.model_spec import Label


@dataclass(frozen=True, slots=True)
class FeatureData:
    """A validated source, written for Feast.

    `name` is that of the model or the feature table. `source` is the source's display name,
    without secrets. `features_path` and `labels_path` are absolute paths of Parquet files, empty
    where there is none: a feature table has no labels; a model of several tables has `tables`
    instead of features of its own. External files may be rewritten from outside at any time.
    `fingerprint` is the SHA-256 of the source's content (64 lower-case hexadecimal digits); for
    the data of a training, that of its final labels.
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
        """Fingerprint of all that a model learns from: the source and its tables."""
        return data_fingerprint(self.fingerprint, [table.fingerprint for table in self.tables])

    @property
    def files(self) -> tuple[str, ...]:
        """Absolute paths of the files of this source that the platform writes."""
        return (
            ()
            if self.is_external
            else tuple(path for path in (self.features_path, self.labels_path) if path)
        )


def final_fingerprint(labels: str, rows: int) -> str:
    """Return the fingerprint of the `rows` final ones of the labels with fingerprint `labels`.

    Final labels are the oldest ones of the source, so their number identifies them.
    """
    return hashlib.sha256(f"{labels}\n{rows}".encode()).hexdigest()


def data_fingerprint(own: str, tables: Sequence[str]) -> str:
    """Combine the fingerprint of a source with those of feature tables, in their order."""
    if not tables:
        return own
    return hashlib.sha256("\n".join((own, *tables)).encode()).hexdigest()
