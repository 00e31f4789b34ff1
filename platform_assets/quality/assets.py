"""`live_quality`: the quality of one day's predictions, by their outcomes."""

# No postponed annotations here: Dagster reads them.
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import dagster as dg

from platform_assets.features.source import SourceError
from platform_assets.model_spec import ModelSpec
from platform_assets.quality.checks import quality_check, quality_check_result, summary
from platform_assets.quality.records import QualityError, QualityReport
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.source import SourceResource

DAYS: Final = dg.DailyPartitionsDefinition("2026-01-01", timezone="UTC", end_offset=1)
"""The day of a prediction, today included."""


def quality_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the asset `live_quality` of one model."""

    @dg.asset(
        **spec.asset("live_quality"),
        partitions_def=DAYS,
        deps=[spec.key("gateway_reload")],
        kinds={"parquet", "duckdb"},
        check_specs=[quality_check(spec)],
        description=(
            f"The predictions of one day joined with their outcomes: {spec.evaluation.metric} of "
            "each version on matured ones with bounds, the share whose outcome is known, late, "
            "duplicate, contradicting and unmatched outcomes, and the days before."
        ),
    )
    def live_quality(
        context: dg.AssetExecutionContext,
        mlflow: MlflowResource,
        samples: SamplesFolder,
        source: SourceResource,
    ) -> Iterator[dg.MaterializeResult[QualityReport]]:
        # Imported here: computing needs NumPy, loading definitions does not.
        from platform_assets.quality.daily import measure_day
        from platform_assets.quality.metadata import quality_metadata

        day = datetime.fromisoformat(context.partition_key).replace(tzinfo=UTC)
        root = Path(samples.root)
        todo = "look at that folder and remove the files that other programs wrote, then run again"
        disk = f"make room below {root} and let this user write there, then run again"
        try:
            with (
                as_failure("", todo, QualityError),
                as_failure("the outcomes of the source were not copied", disk, OSError),
                as_failure(
                    "the quality was not measured",
                    "bring MLflow back (see `make status`), then materialize this day again",
                    MlflowUnavailable,
                ),
            ):
                report = measure_day(spec, mlflow, source, root, day, context.log.info)
        except SourceError as error:
            raise failure(str(error), error.todo) from error
        context.log.info(summary(report))
        yield dg.MaterializeResult(
            value=report,
            check_results=[quality_check_result(report)],
            metadata=quality_metadata(context.instance, spec, report),
        )

    return [live_quality]
