"""A feature table that is filled externally: a view registered in Feast and only read here."""

# No postponed annotations here: Dagster reads them.
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from platform_assets.features.records import FeatureData
from platform_assets.features.source import FINGERPRINT_METADATA
from platform_assets.features.sources.files import cached_digest
from platform_assets.model_spec import WORDS, FeatureTableSpec
from platform_assets.model_spec.table import NEVER
from platform_assets.resources.failures import as_failure, feast_failures
from platform_assets.resources.feast import FeastResource, column_types
from serving_gateway.contract import DType


def external_view(spec: FeatureTableSpec) -> dg.AssetsDefinition:
    """Build the asset `[table_name, online_features]` of an externally filled table."""

    @dg.asset(
        **spec.asset("online_features"),
        kinds={"feast"},
        description=f"Feature view `{spec.feature_view}` of Feast, which others fill: its key, its "
        "columns and where its rows are.",
    )
    def online_features(feast: FeastResource) -> dg.MaterializeResult[FeatureData]:

        todo = "apply the view with Feast's command line, or correct the file of the table"
        with feast_failures(), as_failure("", todo, ExternalViewError):
            view = feast.view(spec.feature_view)
            data = read_external_view(spec, view, feast.home)
        return dg.MaterializeResult(
            value=data,
            data_version=dg.DataVersion(data.fingerprint),
            metadata={
                "rows": data.rows,
                "entities": data.entities,
                "feature_view": spec.feature_view,
                "features_file": dg.MetadataValue.path(data.features_path),
                FINGERPRINT_METADATA: data.fingerprint,
            },
        )

    return online_features


class ExternalViewError(Exception):
    """The registered view does not match the table's file."""


def read_external_view(spec: FeatureTableSpec, view: Any, repository: Path) -> FeatureData:
    """Return where the rows of a registered view (a Feast object) are.

    `repository` is the folder from which Feast resolves relative paths.

    Raises:
        ExternalViewError: key, time, ttl, a column or its type differs, or the rows are not in one
            Parquet file.
    """
    if problems := [*_differences(spec, view)]:
        raise ExternalViewError(f"Feast's view {view.name} {'; '.join(problems)}")
    path = repository / str(view.batch_source.path)
    if path.suffix != ".parquet" or not path.is_file():
        raise ExternalViewError(
            f"the rows of Feast's view {view.name} are in {view.batch_source.path}, and training "
            "reads a Parquet file of this machine"
        )
    import duckdb

    # Before the rows are counted: `check_current` notices if the file is replaced meanwhile.
    digest = cached_digest(path)
    key = spec.join_key.name.replace('"', '""')
    with duckdb.connect(config={"enable_external_file_cache": False}) as database:
        database.execute("SET VARIABLE path = ?", [str(path)])
        counts = (
            f'SELECT count(*), count(DISTINCT "{key}") FROM read_parquet(getvariable($$path$$))'  # noqa: S608 -- a column's name
        )
        [(rows, entities)] = database.sql(counts).fetchall()
    return FeatureData(
        name=spec.name,
        source=f"Feast's view {view.name}",
        features_path=str(path),
        labels_path="",
        rows=rows,
        entities=entities,
        fingerprint=digest,
        is_external=True,
    )


def _differences(spec: FeatureTableSpec, view: Any) -> Iterator[str]:
    """Yield the differences between the view and the table's file."""
    keys = column_types(view.entity_columns)
    if keys != {spec.join_key.name: spec.join_key.dtype}:
        listed = " and ".join(f"{name} ({_type_name(dtype)})" for name, dtype in keys.items())
        yield f"is read by {listed}: name this key"
    time = view.batch_source.timestamp_field
    if spec.event_timestamp != time:
        yield f"has its times in {time}: give this as event_timestamp"
    if spec.expires_after != (ttl := view.ttl or timedelta()):
        days = f"{int(ttl.total_seconds())}s" if ttl else NEVER
        yield f"has the ttl {days}: give the same"
    columns = column_types(view.features)
    for feature in spec.features:
        if feature.name not in columns:
            yield f"has no column {feature.name}"
        elif (dtype := columns[feature.name]) != feature.dtype:
            yield f"has {feature.name} as {_type_name(dtype)}, not as {WORDS[feature.dtype]}"


def _type_name(dtype: DType | None) -> str:
    return WORDS[dtype] if dtype else "a type that no model reads"
