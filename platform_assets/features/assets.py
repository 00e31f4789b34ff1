"""From the source file to features that Feast serves, offline and online."""

# No postponed annotations here: Dagster reads them.
import time

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    TableRecord,
    asset,
)

from platform_assets.features.reading import read_source
from platform_assets.features.records import FeatureData, OnlineFeatures
from platform_assets.features.source import FINGERPRINT_METADATA, SourceError
from platform_assets.features.spec import ModelSpec
from platform_assets.features.storage import StaleDataError, check_current, write_feature_data
from platform_assets.features.validation import expected_types
from platform_assets.resources.failures import failure
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.source import SourceResource

GROUP = "features"
OWNERS = ["team:ml-platform"]


def feature_assets(spec: ModelSpec) -> list[AssetsDefinition]:
    """Build the assets `features` and `online_features` of one model."""
    return [_features(spec), _online_features(spec)]


def _features(spec: ModelSpec) -> AssetsDefinition:
    @asset(
        name="features",
        group_name=GROUP,
        owners=OWNERS,
        kinds={"csv", "parquet"},
        description=(
            f"The source of `{spec.model_name}`, read, validated and written as Parquet for "
            "Feast: what is known of an entity at a time, and its label."
        ),
    )
    def features(
        context: AssetExecutionContext, source: SourceResource, feast: FeastResource
    ) -> MaterializeResult[FeatureData]:
        started = time.monotonic()
        try:
            table, fingerprint = read_source(source.file, spec)
            data = write_feature_data(
                table, spec, feast.data_dir, source=source.file, fingerprint=fingerprint
            )
        except SourceError as exc:
            raise failure(str(exc), exc.todo, metadata={"source": str(source.file)}) from exc
        except OSError as exc:
            raise failure(
                f"the feature files cannot be written below {feast.data_dir}: {exc}",
                "make room there and let this user write to it, then run again",
            ) from exc
        context.log.info(f"{data.rows} rows of {data.entities} entities, {fingerprint[:12]}...")
        return MaterializeResult(
            value=data,
            metadata={
                "dagster/row_count": data.rows,
                "entities": data.entities,
                "rows_per_class": MetadataValue.json(_rows_per_class(table, spec)),
                FINGERPRINT_METADATA: data.fingerprint,
                "source": MetadataValue.path(data.source_path),
                "features_file": MetadataValue.path(data.features_path),
                "labels_file": MetadataValue.path(data.labels_path),
                "columns": MetadataValue.table(
                    [TableRecord({"column": k, "type": v}) for k, v in expected_types(spec).items()]
                ),
                "seconds": round(time.monotonic() - started, 3),
            },
        )

    return features


def _rows_per_class(table, spec: ModelSpec) -> dict[str, int]:  # type: ignore[no-untyped-def] # a pyarrow.Table, which is not imported here
    names = spec.class_names or tuple(str(label) for label in spec.classes)
    counted = table.group_by(spec.target).aggregate([([], "count_all")]).to_pylist()
    by_label = {row[spec.target]: row["count_all"] for row in counted}
    return {name: by_label[label] for name, label in zip(names, spec.classes, strict=True)}


def _online_features(spec: ModelSpec) -> AssetsDefinition:
    @asset(
        name="online_features",
        group_name=GROUP,
        owners=OWNERS,
        kinds={"feast"},
        description=(
            f"Feature service `{spec.feature_service}`: definitions applied to Feast, the newest "
            "values of every entity copied to the online store."
        ),
    )
    def online_features(
        context: AssetExecutionContext, features: FeatureData, feast: FeastResource
    ) -> MaterializeResult[OnlineFeatures]:
        started = time.monotonic()
        try:
            check_current(features)
            feast.apply()
            _check_service(feast, spec)
            applied = time.monotonic()
            context.log.info(f"definitions applied, materializing to {feast.online_store}")
            first, last = _time_span(features, spec)
            feast.materialize(spec.feature_view, first, last)
        except StaleDataError as exc:
            raise failure(str(exc), "materialize features again, then this asset") from exc
        except FeatureStoreError as exc:
            raise failure(
                str(exc),
                "solve that in the feature store, then run again from online_features",
                allow_retries=True,
            ) from exc
        value = OnlineFeatures(
            feature_service=spec.feature_service,
            feature_view=spec.feature_view,
            online_store=feast.online_store,
            entities=features.entities,
            data=features,
        )
        return MaterializeResult(
            value=value,
            metadata={
                "entities": features.entities,
                "feature_service": spec.feature_service,
                "feature_view": spec.feature_view,
                "online_store": feast.online_store,
                FINGERPRINT_METADATA: features.fingerprint,
                "feature_store_yaml": MetadataValue.path(str(feast.home / "feature_store.yaml")),
                "first_event": first.isoformat(),
                "last_event": last.isoformat(),
                "seconds_apply": round(applied - started, 3),
                "seconds_materialize": round(time.monotonic() - applied, 3),
            },
        )

    return online_features


def _check_service(feast: FeastResource, spec: ModelSpec) -> None:
    found = feast.service_features(spec.feature_service)
    if set(found) != set(spec.feature_names):
        raise FeatureStoreError(
            f"feature service {spec.feature_service} serves {sorted(found)}, but "
            f"{spec.model_name} reads {sorted(spec.feature_names)}: make the definitions in "
            f"{feast.repo_path} and the model agree"
        )


def _time_span(data: FeatureData, spec: ModelSpec):  # type: ignore[no-untyped-def] # (datetime, datetime); Dagster would read a postponed annotation
    from pyarrow import compute, parquet

    column = parquet.read_table(data.features_path, columns=[spec.event_timestamp])
    extremes = compute.min_max(column[spec.event_timestamp]).as_py()
    return extremes["min"], extremes["max"]
