"""The Parquet files that Feast and the training read; each names the source it came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.features.records import FeatureData
from platform_assets.features.spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES_FILE: Final = "features.parquet"
LABELS_FILE: Final = "labels.parquet"
_FINGERPRINT_KEY: Final = b"serving.data_fingerprint"


class StaleDataError(Exception):
    """A file is missing, or holds other data than the record that points to it says."""


def write_feature_data(
    table: pa.Table, spec: ModelSpec, directory: Path, *, source: Path, fingerprint: str
) -> FeatureData:
    """Write features and labels below `directory`, each in one atomic step.

    `features.parquet` holds join key, event timestamp and features; `labels.parquet` join key,
    event timestamp and target. Both carry the fingerprint, so a reader notices when a crash or
    another run left the two, or a record and its files, from different sources.
    """
    directory.mkdir(parents=True, exist_ok=True)
    keys = [spec.join_key, spec.event_timestamp]
    features, labels = directory / FEATURES_FILE, directory / LABELS_FILE
    _write(table.select([*keys, *spec.feature_names]), features, fingerprint)
    _write(table.select([*keys, spec.target]), labels, fingerprint)
    return FeatureData(
        source_path=str(source),
        features_path=str(features),
        labels_path=str(labels),
        rows=table.num_rows,
        entities=len(table[spec.join_key].unique()),
        fingerprint=fingerprint,
    )


def _write(table: pa.Table, path: Path, fingerprint: str) -> None:
    from pyarrow import parquet

    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    marked = table.replace_schema_metadata({_FINGERPRINT_KEY: fingerprint.encode()})
    try:
        with staged.open("wb") as file:
            parquet.write_table(marked, file)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def check_current(data: FeatureData) -> None:
    """Return when both files hold the data that the record names.

    Raises:
        StaleDataError: they do not.
    """
    from pyarrow import ArrowException, parquet

    for path in (data.features_path, data.labels_path):
        try:
            metadata = parquet.read_schema(path).metadata or {}
        except (OSError, ArrowException) as exc:
            raise StaleDataError(f"{path} cannot be read: {exc}") from exc
        if metadata.get(_FINGERPRINT_KEY) != data.fingerprint.encode():
            raise StaleDataError(
                f"{path} holds other data than this run's features "
                f"(fingerprint {data.fingerprint[:12]}...): another run replaced it"
            )
