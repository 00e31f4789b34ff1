"""From features to a registered version: candidates compete, MLflow keeps the record."""

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

from platform_assets.features.records import OnlineFeatures
from platform_assets.features.spec import ModelSpec
from platform_assets.features.storage import StaleDataError
from platform_assets.resources.failures import failure, mlflow_failures
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.records import RegisteredVersion
from platform_assets.training.frame import training_rows
from platform_assets.training.pictures import inline
from platform_assets.training.records import TrainedModel
from platform_assets.training.selection import Rows, TrainingError
from platform_assets.training.train import Trained, train

GROUP = "training"
OWNERS = ["team:ml-platform"]


def training_assets(spec: ModelSpec) -> list[AssetsDefinition]:
    """Build the assets `trained_model` and `registered_model` of one model."""
    return [_trained_model(spec), _registered_model(spec)]


def _trained_model(spec: ModelSpec) -> AssetsDefinition:
    @asset(
        name="trained_model",
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scikitlearn", "mlflow"},
        description=(
            f"The best of {len(spec.training.candidates)} candidates for `{spec.model_name}` by "
            "cross-validation on features joined point in time; evaluated on held-out entities."
        ),
    )
    def trained_model(
        context: AssetExecutionContext,
        online_features: OnlineFeatures,
        feast: FeastResource,
        mlflow: MlflowResource,
    ) -> MaterializeResult[TrainedModel]:
        started = time.monotonic()
        with mlflow_failures("trained_model"):
            # Asked first: a server that is down is told before minutes of work, not after.
            closed = mlflow.close_abandoned_runs(
                spec.model_name, lambda run_id: _is_over(context, run_id)
            )
            if closed:
                context.log.warning(f"marked {len(closed)} abandoned MLflow runs as failed")
            rows = _rows(feast, online_features, spec)
            joined = time.monotonic()
            context.log.info(f"{len(rows.labels)} training rows joined point in time")
            try:
                trained = train(
                    rows,
                    online_features.data.fingerprint,
                    spec,
                    mlflow,
                    owner=context.run.run_id,
                    say=context.log.info,
                )
            except TrainingError as exc:
                raise failure(
                    str(exc), "add rows, or take the candidate out, and run again from features"
                ) from exc
        return MaterializeResult(
            value=trained.model,
            metadata={
                **_training_metadata(trained, mlflow),
                "seconds_join": round(joined - started, 3),
                "seconds_train": round(time.monotonic() - joined, 3),
            },
        )

    return trained_model


def _rows(feast: FeastResource, features: OnlineFeatures, spec: ModelSpec) -> Rows:
    try:
        return training_rows(feast, features.data, spec)
    except StaleDataError as exc:
        raise failure(str(exc), "run again from features") from exc
    except FeatureStoreError as exc:
        raise failure(
            str(exc),
            "solve that in the feature store, then run again from online_features",
            allow_retries=True,
        ) from exc
    except TrainingError as exc:
        raise failure(
            str(exc), "correct the times in the source file, then run again from features"
        ) from exc


def _is_over(context: AssetExecutionContext, dagster_run_id: str) -> bool:
    if dagster_run_id == context.run.run_id:
        # This step is only about to start its runs: these are of an attempt before it.
        return True
    run = context.instance.get_run_by_id(dagster_run_id)
    return run is not None and run.is_finished


def _training_metadata(
    trained: Trained, mlflow: MlflowResource
) -> dict[str, MetadataValue | str | int | float]:
    model = trained.model
    return {
        "candidate": trained.candidate,
        "mlflow_run": MetadataValue.url(mlflow.run_url(model.run_id)),
        "run_id": model.run_id,
        **{key: round(value, 6) for key, value in model.metrics.items()},
        "training_rows": trained.training_rows,
        "evaluation_rows": trained.evaluation_rows,
        "data_fingerprint": model.data_fingerprint,
        "candidates": MetadataValue.table(
            [
                TableRecord(
                    {
                        "candidate": name,
                        "accuracy": round(result["cv_accuracy"], 4),
                        "spread": round(result["cv_accuracy_std"], 4),
                        "log_loss": round(-result["cv_neg_log_loss"], 4),
                        "seconds": round(result["seconds"], 2),
                    }
                )
                for name, result in trained.candidates.items()
            ]
        ),
        "evaluation": MetadataValue.md(
            inline(trained.picture, "confusion matrix and calibration of the evaluation rows")
        ),
    }


def _registered_model(spec: ModelSpec) -> AssetsDefinition:
    @asset(
        name="registered_model",
        group_name=GROUP,
        owners=OWNERS,
        kinds={"mlflow"},
        description=(
            f"The version of `{spec.model_name}` that MLflow records for the trained run. "
            "Registered is not served: that is for Triton and the gateway to say."
        ),
    )
    def registered_model(
        context: AssetExecutionContext, trained_model: TrainedModel, mlflow: MlflowResource
    ) -> MaterializeResult[RegisteredVersion]:
        started = time.monotonic()
        with mlflow_failures("registered_model"):
            registered = mlflow.register(
                trained_model.model_name,
                trained_model.run_id,
                signature=trained_model.signature,
                data_fingerprint=trained_model.data_fingerprint,
                metrics=trained_model.metrics,
            )
        context.log.info(f"{registered.model_name} version {registered.version}")
        return MaterializeResult(
            value=registered,
            metadata={
                "version": registered.version,
                "run_id": registered.run_id,
                "mlflow_version": MetadataValue.url(
                    mlflow.version_url(registered.model_name, registered.version)
                ),
                "mlflow_run": MetadataValue.url(mlflow.run_url(registered.run_id)),
                "data_fingerprint": registered.data_fingerprint,
                "features": MetadataValue.table(
                    [
                        TableRecord({"position": index, "feature": f.name, "type": str(f.dtype)})
                        for index, f in enumerate(registered.signature.features)
                    ]
                ),
                "classes": MetadataValue.json(list(registered.signature.classes)),
                "seconds": round(time.monotonic() - started, 3),
            },
        )

    return registered_model
