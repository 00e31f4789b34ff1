"""All definitions of one feature table: its assets, and what reads its source again."""

from __future__ import annotations

import dagster as dg

from platform_assets.automation import table_job, table_schedules, table_sensor
from platform_assets.features.assets import table_assets
from platform_assets.features.checks import feature_checks
from platform_assets.features.source_asset import source_asset
from platform_assets.model_spec import FeatureTableSpec


def build(spec: FeatureTableSpec) -> dg.Definitions:
    """Build the assets, checks, job, schedule and sensor of a feature table; no I/O."""
    job = table_job(spec)
    if spec.is_external:
        return dg.Definitions(assets=table_assets(spec), jobs=[job])
    return dg.Definitions(
        assets=[source_asset(spec), *table_assets(spec)],
        asset_checks=feature_checks(spec),
        jobs=[job],
        schedules=table_schedules(spec, job),
        sensors=[table_sensor(spec, job)],
    )
