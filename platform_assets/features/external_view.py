"""A feature table that others fill: a view that is registered in Feast, and only read here."""

# No postponed annotations here: Dagster reads them.
import dagster as dg

from platform_assets.features.records import FeatureData
from platform_assets.features.source import FINGERPRINT_METADATA
from platform_assets.model_spec import FeatureTableSpec
from platform_assets.resources.failures import as_failure, feast_failures
from platform_assets.resources.feast import FeastResource


def external_view(spec: FeatureTableSpec) -> dg.AssetsDefinition:
    """Build the asset `[table_name, online_features]` of a table that others fill."""

    @dg.asset(
        **spec.asset("online_features"),
        kinds={"feast"},
        description=f"Feature view `{spec.feature_view}` of Feast, which others fill: its key, its "
        "columns and where its rows are.",
    )
    def online_features(feast: FeastResource) -> dg.MaterializeResult[FeatureData]:
        from platform_assets.features.external_rows import ExternalViewError, read_external_view

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
