"""From the source to features that Feast serves, offline and online."""

# No postponed annotations here: Dagster reads them.
import time
from collections.abc import Iterator

import dagster as dg

from platform_assets.features.checks import source_check_results, source_checks
from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.records import FeatureData
from platform_assets.features.source import FINGERPRINT_METADATA, SourceError
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import StaleDataError, check_current, write_feature_data
from platform_assets.features.summary import data_metadata
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure, failure, feast_failures
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.source import SourceResource


def feature_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the assets `[model_name, features]` and `[model_name, online_features]`."""
    return [_features(spec), _online_features(spec)]


def source_asset(spec: ModelSpec) -> dg.AssetSpec:
    """Return `[model_name, source]`: outside of Dagster, and observed by its content."""
    return dg.AssetSpec(
        **spec.asset("source"),
        kinds={spec.source.kind},
        description=f"What `{spec.model_name}` learns from. Its data version is the digest of its "
        "content when it was last read, so `features` made from other content are out of date.",
    )


def source_observation(spec: ModelSpec, fingerprint: str) -> dg.AssetObservation:
    """Return the record that the source had this content just now."""
    return dg.AssetObservation(spec.key("source"), tags={"dagster/data_version": fingerprint})


def _features(spec: ModelSpec) -> dg.AssetsDefinition:
    freshness = spec.automation.freshness

    @dg.asset(
        **spec.asset("features"),
        deps=[spec.key("source")],
        kinds={spec.source.kind, "parquet"},
        check_specs=source_checks(spec),
        freshness_policy=freshness and dg.FreshnessPolicy.time_window(fail_window=freshness),
        description=(
            f"The source of `{spec.model_name}`, read, validated and written as Parquet for "
            "Feast: what is known about an entity at a time, and its label."
        ),
    )
    def features(
        context: dg.AssetExecutionContext, source: SourceResource, feast: FeastResource
    ) -> Iterator[dg.MaterializeResult[FeatureData]]:
        # Here: what reads rows imports pyarrow and DuckDB, and definitions load without them.
        from platform_assets.features.reading import read_source

        started = time.monotonic()
        try:
            table = read_source(spec, source, context.log.info)
        except SourceError as exc:
            raise failure(str(exc), exc.todo, metadata={"model": spec.model_name}) from exc
        todo = "make room there and let this user write to it, then run again"
        with as_failure(
            f"the feature files cannot be written below {feast.data_dir}", todo, OSError
        ):
            data = write_feature_data(table, spec, feast.data_dir, context.log.info)
        context.log_event(source_observation(spec, data.fingerprint))
        context.log.info(f"{data.rows} rows of {data.entities} entities from {data.source}")
        yield dg.MaterializeResult(
            value=data,
            data_version=dg.DataVersion(data.fingerprint),
            check_results=source_check_results(table, spec),
            metadata={
                **data_metadata(table, data, spec),
                "source": data.source,
                "features_file": dg.MetadataValue.path(data.features_path),
                "labels_file": dg.MetadataValue.path(data.labels_path),
                "seconds": round(time.monotonic() - started, 3),
                FINGERPRINT_METADATA: data.fingerprint,
            },
        )

    return features


def _online_features(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.asset(
        **spec.asset("online_features"),
        ins={"features": dg.AssetIn(key=spec.key("features"))},
        kinds={"feast"},
        description=(
            f"Feature service `{spec.feature_service}`: applied to Feast, the newest values of "
            "every entity copied to the online store where they changed, and entities deleted "
            "from it that left the source."
        ),
    )
    def online_features(
        context: dg.AssetExecutionContext, features: FeatureData, feast: FeastResource
    ) -> dg.MaterializeResult[FeatureData]:
        from platform_assets.features.materialization import update_online
        from platform_assets.features.newest import time_span

        started = time.monotonic()
        with as_failure("", "materialize features again, then this asset", StaleDataError):
            check_current(features)
        with feast_failures():
            feast.apply(feast_definitions(spec, feast.data_dir))
            applied = time.monotonic()
            context.log.info(f"definitions applied, materializing to {feast.online_store}")
            changes = update_online(feast, features, spec, Progress(context.log.info))
            span = time_span(features, spec)
        return dg.MaterializeResult(
            value=features,
            metadata={
                "entities": features.entities,
                "rows_written": changes.written,
                "rows_deleted": changes.deleted,
                "first_event": span[0].isoformat(),
                "last_event": span[1].isoformat(),
                "feature_service": spec.feature_service,
                "feature_view": spec.feature_view,
                "online_store": feast.online_store,
                "feature_store_yaml": dg.MetadataValue.path(str(feast.home / "feature_store.yaml")),
                "seconds_apply": round(applied - started, 3),
                "seconds_materialize": round(time.monotonic() - applied, 3),
                "feature_contract": spec.contract,
                FINGERPRINT_METADATA: features.fingerprint,
            },
        )

    return online_features
