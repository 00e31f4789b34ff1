"""Blocking checks of the features: what they measure stands in their metadata."""

# No postponed annotations here: Dagster reads them.
from dataclasses import asdict

from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
    TableRecord,
    asset_check,
)

from platform_assets.features.consistency import compare_online
from platform_assets.features.reading import SourceData
from platform_assets.features.records import OnlineFeatures
from platform_assets.features.validation import range_report
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import failure
from platform_assets.resources.feast import FeastResource, FeatureStoreError


def feature_checks(spec: ModelSpec) -> list[AssetChecksDefinition]:
    """Build the checks of `online_features` of one model; `features` makes its own."""
    return [_online_equals_offline(spec)]


def source_checks(spec: ModelSpec) -> list[AssetCheckSpec]:
    """Return what `features` checks of its rows while it has them."""
    key = AssetKey(spec.key("features"))
    return [
        AssetCheckSpec(
            "ranges",
            asset=key,
            blocking=True,
            description="Every feature lies within its declared range, no event in the future.",
        ),
        AssetCheckSpec(
            "losses",
            asset=key,
            description="Reading changed no value that may count: digits of 32-bit floats, keys.",
        ),
    ]


def source_check_results(source: SourceData, spec: ModelSpec) -> list[AssetCheckResult]:
    """Measure what `source_checks` promises."""
    return [_ranges(source, spec), _losses(source)]


def _ranges(source: SourceData, spec: ModelSpec) -> AssetCheckResult:
    report = range_report(source.table, spec)
    rows = source.table.num_rows
    said = [
        f"{line.column}: {line.outside} of {rows} rows outside {line.allowed} (found {line.found})"
        for line in report
        if line.outside
    ]
    return AssetCheckResult(
        check_name="ranges",
        passed=not said,
        description="; ".join(said) or None,
        metadata={
            "rows": rows,
            "rows_outside": sum(line.outside for line in report),
            "ranges": MetadataValue.table([TableRecord(asdict(line)) for line in report]),
        },
    )


def _losses(source: SourceData) -> AssetCheckResult:
    return AssetCheckResult(
        check_name="losses",
        passed=not source.warnings,
        severity=AssetCheckSeverity.WARN,
        description="; ".join(source.warnings) or None,
        metadata={"warnings": len(source.warnings)},
    )


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
                f"{len(result.differing)} of {result.values} values differ"
                if result.differing
                else None
            ),
            metadata={
                "entities_sampled": result.entities,
                "values_compared": result.values,
                "values_differing": len(result.differing),
                "examples": MetadataValue.json(result.differing[:10]),
            },
        )

    return online_equals_offline
