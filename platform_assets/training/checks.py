"""Blocking checks of the training: what they measure stands in their metadata."""

# No postponed annotations here: Dagster reads them.
from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetIn,
    Config,
    MetadataValue,
    asset_check,
)
from pydantic import Field

from platform_assets.features.spec import ModelSpec
from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.records import RegisteredVersion
from platform_assets.training.records import TrainedModel


def training_checks(spec: ModelSpec) -> list[AssetChecksDefinition]:
    """Build the checks of `trained_model` and `registered_model` of one model."""
    return [_metric_floor(spec), _run_id(spec)]


def _metric_floor(spec: ModelSpec) -> AssetChecksDefinition:
    class MetricFloor(Config):
        accuracy_floor: float = Field(
            default=spec.training.accuracy_floor,
            ge=0,
            le=1,
            description="Least share of the evaluation rows that has to be answered right.",
        )

    @asset_check(
        asset="trained_model",
        name="metric_floor",
        blocking=True,
        description="The accuracy on held-out rows reaches the floor.",
    )
    def metric_floor(trained_model: TrainedModel, config: MetricFloor) -> AssetCheckResult:
        accuracy = trained_model.metrics["accuracy"]
        passed = accuracy >= config.accuracy_floor
        return AssetCheckResult(
            passed=passed,
            description=(
                None
                if passed
                else f"accuracy {accuracy:.4f} is below the floor {config.accuracy_floor:.4f}: "
                "this model is not registered; production stays as it is"
            ),
            metadata={
                "accuracy": accuracy,
                "accuracy_floor": config.accuracy_floor,
                "margin": accuracy - config.accuracy_floor,
                "run_id": trained_model.run_id,
            },
        )

    return metric_floor


def _run_id(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset="registered_model",
        name="run_id",
        blocking=True,
        additional_ins={"trained_model": AssetIn("trained_model")},
        description=(
            f"MLflow, asked now, says that the version of {spec.model_name} came from the "
            "trained run."
        ),
    )
    def run_id(
        registered_model: RegisteredVersion, trained_model: TrainedModel, mlflow: MlflowResource
    ) -> AssetCheckResult:
        with mlflow_failures("registered_model"):
            recorded = mlflow.version(registered_model.model_name, registered_model.version)
        passed = recorded.run_id == trained_model.run_id
        return AssetCheckResult(
            passed=passed,
            description=(
                None
                if passed
                else f"version {recorded.version} is recorded for run {recorded.run_id}, but "
                f"run {trained_model.run_id} was trained"
            ),
            metadata={
                "version": recorded.version,
                "registered_run_id": recorded.run_id,
                "trained_run_id": trained_model.run_id,
                "mlflow_version": MetadataValue.url(
                    mlflow.version_url(recorded.model_name, recorded.version)
                ),
            },
        )

    return run_id
