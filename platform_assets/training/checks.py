"""Checks of the training: what they measure stands in their metadata."""

# No postponed annotations here: Dagster reads them.
from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetIn,
    AssetKey,
    Config,
    MetadataValue,
    asset_check,
)
from pydantic import Field

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.plots import inline
from platform_assets.resources.records import RegisteredVersion, TrainedModel
from platform_assets.training.floor import judge_floor
from platform_assets.training.metrics import METRICS


def training_checks(spec: ModelSpec) -> list[AssetChecksDefinition]:
    """Build the checks of `trained_model` and `registered_model` of one model."""
    return [_metric_floor(spec), _evaluation_classes(spec), _run_id(spec)]


def _metric_floor(spec: ModelSpec) -> AssetChecksDefinition:
    metric = METRICS[spec.evaluation.metric]
    bound = "least" if metric.higher_is_better else "largest"

    class MetricFloor(Config):
        metric_floor: float = Field(
            default=spec.gates.metric_floor,
            description=f"The {bound} {metric.name} on the evaluation rows that is let through.",
        )

    @asset_check(
        asset=AssetKey(spec.key("trained_model")),
        name="metric_floor",
        blocking=True,
        description=f"The {metric.name} on held-out rows is good enough.",
    )
    def metric_floor(trained_model: TrainedModel, config: MetricFloor) -> AssetCheckResult:
        measured, floor = trained_model.metric, config.metric_floor
        verdict = judge_floor(metric, measured, floor, trained_model.evaluation_rows, spec.gates)
        return AssetCheckResult(
            passed=verdict.passed,
            description=(
                verdict.reason
                if verdict.passed
                else f"{verdict.reason}: this model is not registered; production stays as it is"
            )
            or None,
            metadata={
                "metric": metric.name,
                "value": measured.value,
                "low": measured.low,
                "high": measured.high,
                "confidence": measured.confidence,
                "proven": verdict.proven,
                "metric_floor": floor,
                "margin": metric.gain(measured.value, floor),
                "evaluation_rows": trained_model.evaluation_rows,
                "run_id": trained_model.run_id,
                "evaluation": MetadataValue.md(
                    inline(trained_model.picture, "answers for the evaluation rows")
                ),
            },
        )

    return metric_floor


def _evaluation_classes(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset=AssetKey(spec.key("trained_model")),
        name="evaluation_classes",
        description="Every class has evaluation rows; a warning, as rare ones may have none.",
    )
    def evaluation_classes(trained_model: TrainedModel) -> AssetCheckResult:
        missing = trained_model.classes_not_evaluated
        return AssetCheckResult(
            passed=not missing,
            severity=AssetCheckSeverity.WARN,
            description=(
                f"no evaluation row has the class {', '.join(repr(one) for one in missing)}: "
                "how well the model recognizes it is unknown; add rows of it"
                if missing
                else None
            ),
            metadata={
                "classes": len(trained_model.signature.classes),
                "classes_not_evaluated": MetadataValue.json(list(missing)),
            },
        )

    return evaluation_classes


def _run_id(spec: ModelSpec) -> AssetChecksDefinition:
    @asset_check(
        asset=AssetKey(spec.key("registered_model")),
        name="run_id",
        blocking=True,
        additional_ins={"trained_model": AssetIn(key=spec.key("trained_model"))},
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
