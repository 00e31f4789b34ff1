"""Blocking checks of the features: what they measure stands in their metadata."""

# No postponed annotations here: Dagster reads them.
from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetKey,
    MetadataValue,
    TableRecord,
    asset_check,
)

from platform_assets.features.consistency import compare_online
from platform_assets.features.records import FeatureData, OnlineFeatures
from platform_assets.features.validation import (
    expected_types,
    forbidden_nulls,
    null_counts,
    range_report,
    schema_differences,
)
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import failure
from platform_assets.resources.feast import FeastResource, FeatureStoreError


def feature_checks(spec: ModelSpec) -> list[AssetChecksDefinition]:
    """Build the checks of `features` and `online_features` of one model."""
    return [_schema(spec), _nulls(spec), _ranges(spec), _online_equals_offline(spec)]


def _schema(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset=AssetKey([spec.model_name, "features"]),
        name="schema",
        blocking=True,
        description="The written files have exactly the declared columns and types.",
    )
    def schema(features: FeatureData) -> AssetCheckResult:
        differences = schema_differences(features, spec)
        return AssetCheckResult(
            passed=not differences,
            description="; ".join(f"{k}: {v}" for k, v in differences.items()) or None,
            metadata={
                "columns": len(expected_types(spec)),
                "different": len(differences),
                "differences": MetadataValue.json(differences),
            },
        )

    return schema


def _nulls(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset=AssetKey([spec.model_name, "features"]),
        name="nulls",
        blocking=True,
        description="No value is missing where the model file does not allow it.",
    )
    def nulls(features: FeatureData) -> AssetCheckResult:
        counts = null_counts(features)
        bad = forbidden_nulls(counts, spec)
        return AssetCheckResult(
            passed=not bad,
            description=", ".join(f"{k}: {v} empty" for k, v in bad.items()) or None,
            metadata={
                "rows": features.rows,
                "empty_values": sum(counts.values()),
                "forbidden_empty_values": sum(bad.values()),
                "empty_by_column": MetadataValue.json(counts),
            },
        )

    return nulls


def _ranges(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset=AssetKey([spec.model_name, "features"]),
        name="ranges",
        blocking=True,
        description="Every feature lies within its declared range, no event in the future.",
    )
    def ranges(features: FeatureData) -> AssetCheckResult:
        report = range_report(features, spec)
        bad = [line for line in report if line.outside]
        return AssetCheckResult(
            passed=not bad,
            description="; ".join(
                f"{r.column}: {r.outside} of {features.rows} rows outside {r.allowed} "
                f"(found {r.found})"
                for r in bad
            )
            or None,
            metadata={
                "rows": features.rows,
                "rows_outside": sum(line.outside for line in report),
                "ranges": MetadataValue.table(
                    [
                        TableRecord(
                            {
                                "column": line.column,
                                "allowed": line.allowed,
                                "found": line.found,
                                "outside": line.outside,
                            }
                        )
                        for line in report
                    ]
                ),
            },
        )

    return ranges


def _online_equals_offline(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset=AssetKey([spec.model_name, "online_features"]),
        name="online_equals_offline",
        blocking=True,
        description=(
            "For sampled entities the online store answers what the offline store knows last."
        ),
    )
    def online_equals_offline(
        online_features: OnlineFeatures, feast: FeastResource
    ) -> AssetCheckResult:
        try:
            result = compare_online(feast, online_features.data, spec)
        except FeatureStoreError as exc:
            raise failure(
                str(exc),
                "solve that in the feature store, then run again from online_features",
                allow_retries=True,
            ) from exc
        return AssetCheckResult(
            passed=not result.differing,
            description=(
                f"{len(result.differing)} of {result.values} values differ: materialize "
                "online_features again, which then writes all rows"
                if result.differing
                else None
            ),
            metadata={
                "entities_sampled": result.entities,
                "entities_expired": result.expired,
                "values_compared": result.values,
                "values_differing": len(result.differing),
                "examples": MetadataValue.json(result.differing[:10]),
            },
        )

    return online_equals_offline
