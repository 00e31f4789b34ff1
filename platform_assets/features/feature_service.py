"""The feature service of a model of several tables: what its versions read, by which keys."""

# No postponed annotations here: Dagster reads them.
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg

from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.records import FeatureData
from platform_assets.features.source import FINGERPRINT_METADATA
from platform_assets.features.storage import StaleDataError, check_current
from platform_assets.model_spec import ModelSpec, table_job_name
from platform_assets.resources.failures import as_failure, failure, feast_failures
from platform_assets.resources.feast import FeastResource, column_types
from platform_assets.resources.metadata import table


def feature_service(spec: ModelSpec) -> dg.AssetsDefinition:
    """Build the asset `[model_name, online_features]` of a model of feature tables."""
    tables = {table.name: dg.AssetKey(table.key("online_features")) for table in spec.tables}

    @dg.asset(
        **spec.asset("online_features"),
        ins={"features": dg.AssetIn(key=spec.key("features"))},
        # Loaded in the body: if a table was never read, the failure says what to do.
        deps=list(tables.values()),
        kinds={"feast"},
        description=(
            f"Feature service `{spec.feature_service}` over the tables {', '.join(tables)}: what "
            f"the versions of `{spec.name}` read by {' and '.join(spec.join_key_names)}."
        ),
    )
    def online_features(
        context: dg.AssetExecutionContext, features: FeatureData, feast: FeastResource
    ) -> dg.MaterializeResult[FeatureData]:
        started = time.monotonic()
        joined = replace(
            features, tables=tuple(table_data(context, *part) for part in tables.items())
        )
        todo = "materialize the tables again, then this asset"
        with as_failure("", todo, StaleDataError):
            check_current(joined)
        with feast_failures():
            views = {spec_.name: feast.view(spec_.feature_view) for spec_ in spec.tables}
            _require_columns(spec, views)
            external = {spec_.name: views[spec_.name] for spec_ in spec.tables if spec_.is_external}
            feast.apply(feast_definitions(spec, feast.data_dir, external))
        return dg.MaterializeResult(
            value=joined,
            metadata={
                "feature_service": spec.feature_service,
                "feature_contract": spec.contract,
                "tables": table(
                    {"table": one.name, "rows": one.rows, "entities": one.entities}
                    for one in joined.tables
                ),
                "feature_store_yaml": dg.MetadataValue.path(str(feast.home / "feature_store.yaml")),
                "seconds_apply": round(time.monotonic() - started, 3),
                FINGERPRINT_METADATA: joined.data_fingerprint,
            },
        )

    return online_features


def _require_columns(spec: ModelSpec, views: Mapping[str, Any]) -> None:
    """Fail where a registered view (a Feast object) lacks a column that its file now has."""
    for name, view in views.items():
        registered = column_types(view.features)
        dtypes = {feature.name: feature.dtype for feature in spec.features if feature.table == name}
        if missing := [
            column for column, dtype in dtypes.items() if registered.get(column) != dtype
        ]:
            raise failure(
                f"the feature table {name} was last read without {', '.join(missing)}, or with "
                "another type of it",
                f"run the job {table_job_name(name)}, then this asset.",
            )


def table_data(context: dg.AssetExecutionContext, name: str, key: dg.AssetKey) -> FeatureData:
    """Return the record of the last read of a feature table.

    Raises:
        dagster.Failure: it was never read.
    """
    if context.instance.get_latest_materialization_event(key) is None:
        raise failure(
            f"the feature table {name} was never materialized",
            f"run the job {table_job_name(name)}, then this asset.",
        )
    data: FeatureData = context.load_asset_value(key, python_type=FeatureData)
    return data
