"""All definitions of one model, or of one feature table: assets, checks and automation."""

from __future__ import annotations

from functools import partial

import dagster as dg

from platform_assets import automation
from platform_assets.export.assets import export_assets
from platform_assets.export.checks import export_checks
from platform_assets.features.assets import feature_assets, table_assets
from platform_assets.features.checks import feature_checks
from platform_assets.features.source_asset import source_asset
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.monitoring.assets import drift_assets
from platform_assets.monitoring.automation import drift_schedule, drift_sensor
from platform_assets.monitoring.checks import drift_checks
from platform_assets.quality.assets import quality_assets
from platform_assets.quality.automation import quality_schedule
from platform_assets.quality.comparisons import matured_outcomes
from platform_assets.release.assets import release_asset, release_checks
from platform_assets.release.jobs import decision_jobs
from platform_assets.scoring.assets import scoring_assets
from platform_assets.scoring.checks import scoring_checks
from platform_assets.serving.assets import serving_assets
from platform_assets.serving.checks import serving_checks
from platform_assets.serving.rollback import rollback_job
from platform_assets.training.assets import training_assets
from platform_assets.training.checks import training_checks


def build(spec: ModelSpec | FeatureTableSpec) -> dg.Definitions:
    """Build the assets, checks, jobs, schedules and sensors of a model or a table; no I/O."""
    return _table(spec) if isinstance(spec, FeatureTableSpec) else _model(spec)


def _model(spec: ModelSpec) -> dg.Definitions:
    chain, adoption = automation.chain_job(spec), automation.adoption_job(spec)
    drift, scoring = automation.drift_job(spec), automation.scoring_job(spec)
    quality = automation.quality_job(spec)
    drifts_at, on_drift = drift_schedule(spec, drift), drift_sensor(spec, chain)
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [
        source_asset(spec),
        *feature_assets(spec),
        *training_assets(spec),
        *export_assets(spec),
        *serving_assets(spec),
        *drift_assets(spec),
        *scoring_assets(spec),
        *quality_assets(spec),
        *([release_asset(spec)] if spec.release else []),
    ]
    return dg.Definitions(
        assets=dg.map_asset_specs(partial(_describe, spec.description), assets),
        asset_checks=[
            *feature_checks(spec),
            *training_checks(spec),
            *export_checks(spec),
            *serving_checks(spec, matured_outcomes),
            *drift_checks(spec),
            *scoring_checks(spec),
            *([release_checks(spec, spec.release)] if spec.release else []),
        ],
        jobs=[
            *(chain, automation.serving_job(spec), adoption),
            *(drift, scoring, quality, rollback_job(spec)),
            *(decision_jobs(spec) if spec.release else []),
        ],
        schedules=[
            *automation.retraining_schedules(spec, chain),
            quality_schedule(spec, quality),
            *([drifts_at] if drifts_at else []),
        ],
        sensors=[
            automation.new_data_sensor(spec, chain),
            automation.foreign_version_sensor(spec, adoption),
            *([on_drift] if on_drift else []),
        ],
    )


def _table(spec: FeatureTableSpec) -> dg.Definitions:
    job = automation.table_job(spec)
    schedules = automation.table_schedules(spec, job)
    if spec.is_external:
        return dg.Definitions(assets=table_assets(spec), jobs=[job], schedules=schedules)
    return dg.Definitions(
        assets=[source_asset(spec), *table_assets(spec)],
        asset_checks=feature_checks(spec),
        jobs=[job],
        schedules=schedules,
        sensors=[automation.table_sensor(spec, job)],
    )


def _describe(what_for: str, asset: dg.AssetSpec) -> dg.AssetSpec:
    """Append what the model is for to the asset's description."""
    parts = (asset.description, what_for)
    return asset.replace_attributes(description="\n\n".join(part for part in parts if part))
