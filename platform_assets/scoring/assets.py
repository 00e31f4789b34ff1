"""`batch_predictions`: the version in production, asked about entities or the rows of a file."""

# No postponed annotations here: Dagster reads them.
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import dagster as dg
from pydantic import Field

from platform_assets.features.feature_service import table_data
from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import StaleDataError
from platform_assets.model_spec import ModelSpec, Task
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.feast_errors import FeatureStoreError
from platform_assets.resources.folders import PredictionsFolder
from platform_assets.resources.gateway import GatewayClientError, GatewayResource
from platform_assets.resources.metadata import picture, table
from platform_assets.resources.source import SourceError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.scoring.production import NoProductionVersion, production_version
from platform_assets.scoring.records import BatchPredictions

ENTITIES: Final = "entities"


class BatchConfig(dg.Config):
    """Which rows are scored."""

    source: str = Field(
        default=ENTITIES,
        min_length=1,
        description="`entities`: the newest row of every entity of the model's table. Otherwise "
        "the path of a CSV or Parquet file, a folder of them or a glob pattern, with the features "
        "as columns; for a model of several tables, with the keys and the features of requests.",
    )


def scoring_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the asset `batch_predictions` of one model."""

    @dg.asset(
        **spec.asset("batch_predictions"),
        ins={"online_features": dg.AssetIn(key=spec.key("online_features"))},
        deps=[spec.key("gateway_reload")],
        kinds={"parquet"},
        description=(
            "What the version in production answers for all entities, or for the rows of a file: "
            "a Parquet file with keys, prediction, probabilities, version and run. Not part of the "
            "chain."
        ),
    )
    def batch_predictions(
        context: dg.AssetExecutionContext,
        config: BatchConfig,
        online_features: FeatureData,
        gateway: GatewayResource,
        triton: TritonResource,
        predictions: PredictionsFolder,
    ) -> dg.MaterializeResult[BatchPredictions]:
        started, scored_at = time.monotonic(), datetime.now(UTC)
        with _failures(spec, predictions):
            version = production_version(spec, gateway, triton)
        path = predictions.path(spec.model_name, version.version, scored_at)
        # Feature tables are read separately from the model's own one.
        shared = [
            table_data(context, source_spec.name, dg.AssetKey(source_spec.key("online_features")))
            for source_spec in spec.tables
        ]
        tables = tuple(shared) or (online_features,)
        progress = Progress(context.log.info)
        with (
            _failures(spec, predictions),
            predictions.workspace(spec.model_name) as folder,
        ):
            # Imported here: computing needs pyarrow and DuckDB, loading definitions does not.
            from platform_assets.scoring.queries import open_rows
            from platform_assets.scoring.writing import PredictionWriter

            file = None if config.source == ENTITIES else config.source
            rows = open_rows(file, tables, spec, scored_at, folder, progress)
            writer = PredictionWriter(spec, version, triton.endpoints(), scored_at, progress)
            result = writer.write(rows, path, folder)
        seconds = time.monotonic() - started
        context.log.info(f"{result.rows:,} rows in {seconds:.1f} s, {result.unscored:,} not scored")
        return dg.MaterializeResult(value=result, metadata=_metadata(result, config, spec, seconds))

    return [batch_predictions]


@contextmanager
def _failures(spec: ModelSpec, folder: PredictionsFolder) -> Iterator[None]:
    """Turn expected errors into failures of the step; a file is complete or does not exist."""
    key = "/".join(spec.key("online_features"))
    still = "No file was written, and serving is as it was."
    disk = f"make room below {folder.root} and let this user write there, then run again"
    try:
        with (
            as_failure("the predictions were not written", disk, OSError, still_true=still),
            as_failure(
                "not all rows were answered",
                "run again when GET /models says what is in production and Triton has it READY",
                TritonError,
                still_true=still,
            ),
            as_failure("", "run again when the gateway answers", GatewayClientError),
            as_failure("", f"materialize {key}, then this asset", StaleDataError, still_true=still),
            as_failure("", "run again", FeatureStoreError, still_true=still),
        ):
            yield
    except (NoProductionVersion, SourceError) as error:
        raise failure(str(error), error.todo, still_true=still) from error


def _metadata(
    result: BatchPredictions, config: BatchConfig, spec: ModelSpec, seconds: float
) -> dict[str, Any]:
    from platform_assets.scoring.summary import distribution, distribution_picture

    path = Path(result.path)
    counts = distribution(path, of_numbers=spec.task is Task.REGRESSION)
    reasons = [{"reason": reason, "rows": rows} for reason, rows in result.reasons.items()]
    return {
        "version": result.version.version,
        "run_id": result.version.run_id,
        "picture": picture(distribution_picture(counts), "how often each answer was given"),
        "file": dg.MetadataValue.path(result.path),
        "dagster/row_count": result.rows,
        "rows_scored": result.rows - result.unscored,
        "rows_not_scored": result.unscored,
        "reasons": table(reasons) if reasons else "none",
        "source": config.source,
        "seconds": round(seconds, 3),
        "rows_per_second": round(result.rows / seconds),
    }
