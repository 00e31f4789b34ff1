"""From features to a registered version: candidates compete, MLflow keeps the record."""

# No postponed annotations here: Dagster reads them.
import time
from dataclasses import asdict
from itertools import islice

import dagster as dg

from platform_assets.features.records import FeatureData
from platform_assets.features.storage import StaleDataError
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.environment import numeric_environment
from platform_assets.resources.failures import as_failure, feast_failures, mlflow_failures
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.metadata import picture, table
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.records import RegisteredVersion, TrainedModel
from platform_assets.training.candidates import expand
from platform_assets.training.floor import describe_metric
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.rows import Rows, TrainingError
from platform_assets.training.train import EVALUATION_PICTURE, Trained, train

_MOST_ROWS = 100
"""Rows of the candidate table: the best ones, and the first that failed."""


def training_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the assets `trained_model` and `registered_model` of one model."""
    return [_trained_model(spec), _registered_model(spec)]


def _trained_model(spec: ModelSpec) -> dg.AssetsDefinition:
    candidates = len(expand(spec))

    @dg.asset(
        **spec.asset("trained_model"),
        ins={"online_features": dg.AssetIn(key=spec.key("online_features"))},
        kinds={"scikitlearn", "mlflow"},
        description=(
            f"The best candidate (of {candidates}) for `{spec.model_name}` by cross-validation on "
            f"features joined point in time; evaluated on rows held out by {spec.evaluation.split}."
        ),
    )
    def trained_model(
        context: dg.AssetExecutionContext,
        online_features: FeatureData,
        feast: FeastResource,
        mlflow: MlflowResource,
    ) -> dg.MaterializeResult[TrainedModel]:
        from platform_assets.training.frame import training_data

        started = time.monotonic()
        with mlflow_failures("trained_model"):
            # Queried first: a server that is down is reported before minutes of work, not after.
            closed = mlflow.close_abandoned_runs(
                spec.model_name, lambda run_id: _is_over(context, run_id)
            )
            if closed:
                context.log.warning(f"marked {len(closed)} abandoned MLflow runs as failed")
            # In a list, to hand over ownership: no needless copy of a million rows is kept.
            rows = [_rows(feast, online_features, spec)]
            joined = time.monotonic()
            context.log.info(f"{len(rows[0])} training rows joined point in time")
            data = training_data(online_features, spec, len(rows[0]))
            todo = (
                "correct the model file (or add rows to the source), then run again from features"
            )
            with as_failure("", todo, TrainingError):
                trained = train(
                    rows.pop(),
                    data,
                    spec,
                    mlflow,
                    owner=context.run.run_id,
                    say=context.log.info,
                )
        for name, reason in trained.failed.items():
            context.log.warning(f"{name} did not compete: {reason}")
        return dg.MaterializeResult(
            value=trained.model,
            metadata={
                **_training_metadata(trained, spec, mlflow),
                "seconds_join": round(joined - started, 3),
                "seconds_train": round(time.monotonic() - joined, 3),
            },
        )

    return trained_model


def _rows(feast: FeastResource, features: FeatureData, spec: ModelSpec) -> Rows:
    from platform_assets.training.frame import training_rows

    with (
        as_failure("", "run again from features", StaleDataError),
        as_failure(
            "", "correct the source or the model file, then run again from features", TrainingError
        ),
        feast_failures(),
    ):
        return training_rows(feast, features, spec)


def _is_over(context: dg.AssetExecutionContext, dagster_run_id: str) -> bool:
    if dagster_run_id == context.run.run_id:
        # This step has not started its runs yet: these belong to an earlier attempt.
        return True
    run = context.instance.get_run_by_id(dagster_run_id)
    return run is not None and run.is_finished


def _training_metadata(
    trained: Trained, spec: ModelSpec, mlflow: MlflowResource
) -> dict[str, dg.MetadataValue | str | int | float]:
    model = trained.model
    pictures = {name: picture(png, name) for name, png in trained.pictures.items()}
    return {
        "candidate": trained.candidate,
        "metric": _metric_line(model, spec),
        EVALUATION_PICTURE: pictures.pop(EVALUATION_PICTURE),
        "mlflow_run": dg.MetadataValue.url(mlflow.run_url(model.run_id)),
        "scores": _scores(trained),
        **({"search": dg.MetadataValue.json(asdict(trained.searched))} if trained.searched else {}),
        **pictures,
        **{key: round(value, 6) for key, value in model.metrics.items()},
        **({} if model.threshold is None else {"threshold": model.threshold}),
        "training_rows": trained.training_rows,
        "evaluation_rows": model.evaluation_rows,
        "candidates_failed": dg.MetadataValue.json(trained.failed),
        "unseen_texts": dg.MetadataValue.json(trained.unseen_texts),
        "classes_not_evaluated": dg.MetadataValue.json(list(model.classes_not_evaluated)),
        "origin": dg.MetadataValue.json(
            {
                "run_id": model.run_id,
                "data_fingerprint": model.data_fingerprint,
                "code_version": model.code_version,
                "numeric_environment": numeric_environment(),
            }
        ),
    }


def _scores(trained: Trained) -> dg.TableMetadataValue:
    """Return the candidates with their scores, or with the reason why they have none."""
    rows = [
        {"candidate": name}
        | {key.removeprefix("cv_"): round(value, 4) for key, value in result.items()}
        for name, result in islice(trained.candidates.items(), _MOST_ROWS)
    ]
    out = islice(trained.failed.items(), _MOST_ROWS)
    columns = dict.fromkeys(key for row in rows for key in row)
    rows += [{"candidate": name, "failed": why} for name, why in out]
    # Dagster needs the same columns in all rows.
    return table(columns | {"failed": ""} | row for row in rows)


def _metric_line(model: TrainedModel, spec: ModelSpec) -> str:
    """Describe the metric of the gates, and its floor."""
    metric = chosen_metric(spec.evaluation)
    return describe_metric(metric, model.metric, spec.gates.metric_floor)


def _version_description(model: TrainedModel, spec: ModelSpec) -> str:
    metric = spec.evaluation.metric
    return (
        f"{metric} {model.metrics[metric]:.4f} on {model.evaluation_rows} held-out rows. Trained "
        f"by Dagster run {model.dagster_run_id}. Registered is not served: tags and aliases say "
        "what reached production."
    )


def _registered_model(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.asset(
        **spec.asset("registered_model"),
        ins={"trained_model": dg.AssetIn(key=spec.key("trained_model"))},
        kinds={"mlflow"},
        description=(
            f"The version of `{spec.model_name}` that MLflow records for the trained run. "
            "Registered is not served: that is for Triton and the gateway to say."
        ),
    )
    def registered_model(
        context: dg.AssetExecutionContext, trained_model: TrainedModel, mlflow: MlflowResource
    ) -> dg.MaterializeResult[RegisteredVersion]:
        started = time.monotonic()
        with mlflow_failures("registered_model"):
            registered = mlflow.register(
                trained_model,
                description=_version_description(trained_model, spec),
                model_description=spec.description,
            )
        context.log.info(f"{registered.model_name} version {registered.version}")
        return dg.MaterializeResult(
            value=registered,
            metadata={
                "version": registered.version,
                "metric": _metric_line(trained_model, spec),
                "mlflow_version": dg.MetadataValue.url(
                    mlflow.version_url(registered.model_name, registered.version)
                ),
                "mlflow_run": dg.MetadataValue.url(mlflow.run_url(registered.run_id)),
                "features": table(
                    {
                        "position": index,
                        "feature": f.name,
                        "type": f.dtype.value,
                        "nullable": f.nullable,
                    }
                    for index, f in enumerate(registered.signature.features)
                ),
                "classes": dg.MetadataValue.json(list(registered.signature.classes)),
                "seconds": round(time.monotonic() - started, 3),
                "origin": dg.MetadataValue.json(
                    {
                        "run_id": registered.run_id,
                        "data_fingerprint": registered.data_fingerprint,
                        "code_version": registered.code_version,
                        "dagster_run_id": registered.dagster_run_id,
                        "feature_contract": spec.contract,
                    }
                ),
            },
        )

    return registered_model
