"""From the source to features that Feast serves, offline and online."""

# No postponed annotations here: Dagster reads them.
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg

from platform_assets.features.checks import source_check_results, source_checks
from platform_assets.features.external_view import external_view
from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.feature_service import feature_service
from platform_assets.features.records import FeatureData
from platform_assets.features.source import FINGERPRINT_METADATA, SourceError
from platform_assets.features.source_asset import read_version_tags, record_source
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import StaleDataError, check_current, write_feature_data
from platform_assets.features.summary import data_metadata
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.resources.failures import as_failure, failure, feast_failures
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.source import SourceResource


def feature_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the assets `[model_name, features]` and `[model_name, online_features]`."""
    online = _online_features(spec) if spec.labels is None else feature_service(spec)
    return [_features(spec, spec.automation.freshness), online]


def table_assets(spec: FeatureTableSpec) -> list[dg.AssetsDefinition]:
    """Build the assets `[table_name, features]` and `[table_name, online_features]`.

    A table that is filled externally only has the second one, which inspects its view.
    """
    if spec.is_external:
        return [external_view(spec)]
    return [_features(spec, spec.freshness), _online_features(spec)]


def _features(
    spec: ModelSpec | FeatureTableSpec, freshness: timedelta | None
) -> dg.AssetsDefinition:
    rows_of = spec.own_table
    what = "what is known about an entity at a time, and its label"
    if rows_of.label_column is None:
        what = "what is known about an entity at a time"
    elif rows_of is not spec:
        what = "keys, time and label of each row, and what requests bring along"

    @dg.asset(
        **spec.asset("features"),
        deps=[spec.key("source")],
        kinds={spec.source.kind, "parquet"},
        check_specs=source_checks(rows_of),
        freshness_policy=freshness and dg.FreshnessPolicy.time_window(fail_window=freshness),
        description=f"The source of `{spec.name}`, read, validated and written as Parquet: {what}.",
    )
    def features(
        context: dg.AssetExecutionContext, source: SourceResource, feast: FeastResource
    ) -> Iterator[dg.MaterializeResult[FeatureData]]:
        # Imported here: reading needs pyarrow and DuckDB, loading definitions does not.
        from platform_assets.features.reading import read_source, read_table

        started = time.monotonic()
        if isinstance(spec, FeatureTableSpec):
            with feast_failures():
                # Before the file that training and batch scoring read is replaced.
                _refuse_breaking(spec, feast)
        try:
            rows = (
                read_source(spec, source, context.log.info)
                if isinstance(spec, ModelSpec)
                else read_table(spec, source, context.log.info)
            )
        except SourceError as exc:
            raise failure(str(exc), exc.todo, metadata={"model": spec.name}) from exc
        # Before the files are replaced: an error leaves the existing ones in place.
        results = source_check_results(rows, rows_of)
        todo = "make room there and let this user write to it, then run again"
        with as_failure(
            f"the feature files cannot be written below {feast.data_dir}", todo, OSError
        ):
            data = write_feature_data(rows, rows_of, feast.data_dir, context.log.info)
        record_source(context.instance, spec, data.fingerprint)
        context.log.info(f"{data.rows} rows of {data.entities} entities from {data.source}")
        yield dg.MaterializeResult(
            value=data,
            data_version=dg.DataVersion(data.fingerprint),
            tags=read_version_tags(spec, data.fingerprint),
            check_results=results,
            metadata={
                **data_metadata(rows, data, spec),
                "source": data.source,
                **{f"{Path(path).stem}_file": dg.MetadataValue.path(path) for path in data.files},
                "seconds": round(time.monotonic() - started, 3),
                FINGERPRINT_METADATA: data.fingerprint,
            },
        )

    return features


def _online_features(spec: ModelSpec | FeatureTableSpec) -> dg.AssetsDefinition:
    what, service = "Feature view", {}
    if isinstance(spec, ModelSpec):
        what = "Feature service"
        service = {"feature_service": spec.feature_service, "feature_contract": spec.contract}

    @dg.asset(
        **spec.asset("online_features"),
        ins={"features": dg.AssetIn(key=spec.key("features"))},
        kinds={"feast"},
        description=(
            f"{what} `{spec.feature_view}`: applied to Feast, the newest values of "
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
            if isinstance(spec, FeatureTableSpec):
                _refuse_breaking(spec, feast)
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
                **service,
                "feature_view": spec.feature_view,
                "online_store": feast.online_store,
                "feature_store_yaml": dg.MetadataValue.path(str(feast.home / "feature_store.yaml")),
                "seconds_apply": round(applied - started, 3),
                "seconds_materialize": round(time.monotonic() - applied, 3),
                FINGERPRINT_METADATA: features.fingerprint,
            },
        )

    return online_features


def _refuse_breaking(spec: FeatureTableSpec, feast: FeastResource) -> None:
    """Fail where a registered service reads a column that the table no longer has."""
    if spec.allow_breaking:
        return
    own = {feature.name: feature.dtype for feature in spec.features}
    broken = [
        f"{service} reads {', '.join(lost)}"
        for service, columns in sorted(feast.readers(spec.feature_view).items())
        if (lost := [name for name, dtype in columns.items() if own.get(name) != dtype])
    ]
    if broken:
        raise failure(
            f"columns of {spec.name} that versions read were removed or changed their type: "
            f"{'; '.join(broken)}",
            "put them back, retire those versions first, or say `allow_breaking: true` in the file "
            f"of {spec.name}, then run again.",
        )
