"""The Parquet files that Feast and the training read, each marked with its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.features.records import FeatureData
from platform_assets.features.sources.files import cached_digest
from platform_assets.features.sources.reader import Log, Progress, SourceTable
from platform_assets.model_spec import LabelTable, SourceSpec, table_job_name
from platform_assets.resources.atomic_files import open_replacement, remove_abandoned

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES_FILE: Final = "features.parquet"
LABELS_FILE: Final = "labels.parquet"
_FINGERPRINT_KEY: Final = b"serving.data_fingerprint"
_GROUP_ROWS: Final = 100_000


class StaleDataError(Exception):
    """A file is missing, or its data does not match the record that points to it."""


def write_feature_data(
    source: SourceTable, spec: SourceSpec, data_dir: Path, log: Log | None = None
) -> FeatureData:
    """Write features and labels to their own folder in `data_dir`, each in one atomic step.

    `features.parquet` holds join key, event timestamp and features of all rows, null where one
    is missing; `labels.parquet` join keys, event timestamp and target of those with a label, their
    weight where the model has one, and the features of requests where the others are in feature
    tables. Both carry the fingerprint, so a reader notices if after a crash or another run the
    two files, or a record and its files, come from different sources.
    """
    import pyarrow.compute as pc

    table = source.table
    directory = data_dir / spec.name
    directory.mkdir(parents=True, exist_ok=True)
    keys = [*spec.join_key_names, spec.event_timestamp]
    target, are_labels = spec.label_column, isinstance(spec, LabelTable)
    features, labels = directory / FEATURES_FILE, directory / LABELS_FILE
    progress = Progress(log)
    remove_abandoned(directory, ".*.part")
    if are_labels:
        features.unlink(missing_ok=True)  # left over if the model had a table of its own
    else:
        _write(table.select([*keys, *spec.feature_names]), features, source.fingerprint, progress)
    if target is not None:
        weight = [spec.weight_column.name] if spec.weight_column else []
        requested = spec.feature_names if are_labels else ()
        labelled = table.select([*keys, *requested, target.name, *weight])
        labelled = labelled.filter(labelled[target.name].is_valid())
        _write(labelled, labels, source.fingerprint, progress)
    return FeatureData(
        name=spec.name,
        source=source.name,
        features_path="" if are_labels else str(features),
        labels_path=str(labels) if target else "",
        rows=table.num_rows,
        entities=pc.count_distinct(table[spec.join_key.name]).as_py(),
        fingerprint=source.fingerprint,
        classes=source.classes,
        nulls={name: table[name].null_count for name in spec.feature_names},
    )


def _write(table: pa.Table, path: Path, fingerprint: str, progress: Progress) -> None:
    from pyarrow import parquet

    marked = table.replace_schema_metadata({_FINGERPRINT_KEY: fingerprint.encode()})
    with open_replacement(path) as file, parquet.ParquetWriter(file, marked.schema) as writer:
        for start in range(0, marked.num_rows, _GROUP_ROWS):
            writer.write_table(marked.slice(start, _GROUP_ROWS))
            progress.report(f"writing {path.name}", start, marked.num_rows)


def check_current(data: FeatureData) -> None:
    """Raise StaleDataError unless all files hold the recorded data."""
    from pyarrow import ArrowException, parquet

    fingerprints = dict.fromkeys(data.files, data.fingerprint)
    fingerprints |= {path: part.fingerprint for part in data.tables for path in part.files}
    for part in (data, *data.tables):
        if part.is_external:
            _check_external(part)
    for path, fingerprint in fingerprints.items():
        try:
            metadata = parquet.read_schema(path).metadata or {}
        except (OSError, ArrowException) as exc:
            raise StaleDataError(f"{path} cannot be read: {exc}") from exc
        if metadata.get(_FINGERPRINT_KEY) != fingerprint.encode():
            raise StaleDataError(
                f"{path} holds other data than this run's features "
                f"(fingerprint {fingerprint[:12]}...): another run replaced it"
            )


def _check_external(table: FeatureData) -> None:
    try:
        digest = cached_digest(Path(table.features_path))
    except OSError as exc:
        raise StaleDataError(f"{table.features_path} cannot be read: {exc}") from exc
    if digest != table.fingerprint:
        raise StaleDataError(
            f"{table.features_path} was replaced after the feature table {table.name} was read; "
            f"first run {table_job_name(table.name)}, which looks at it again"
        )
