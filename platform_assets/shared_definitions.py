"""What all models of a code location share: sensors that watch them, and resources."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from platform_assets.automation import promotion_job
from platform_assets.intervals import sensor_seconds
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.maintenance.job import maintenance_job, maintenance_schedule
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.notifications import check_warnings, run_failure
from platform_assets.release.sensor import release_pilot_sensor
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.folders import DriftReports, PredictionsFolder, ProofFolder
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.source import SourceResource
from platform_assets.resources.triton import TritonResource
from platform_assets.resources.webhook import WebhookResource
from platform_assets.serving.reconcile import reconcile_job
from platform_assets.serving.sensors import production_watch_sensor, serving_drift_sensor


def monitoring_definitions(
    specs: Sequence[ModelSpec], tables: Sequence[FeatureTableSpec] = ()
) -> dg.Definitions:
    """Return what monitors the serving of all models together, and cleans up their records."""
    jobs, maintenance = [reconcile_job(spec) for spec in specs], maintenance_job(specs, tables)
    return dg.Definitions(
        jobs=[*jobs, maintenance],
        schedules=[maintenance_schedule(maintenance)],
        sensors=[
            serving_drift_sensor(specs, jobs),
            production_watch_sensor(specs),
            run_failure,
            check_warnings,
            declarative_automation(),
            *_releases(specs),
        ],
    )


def _releases(specs: Sequence[ModelSpec]) -> list[dg.SensorDefinition]:
    """Build the pilot of the models that are released in steps, with the jobs that it launches."""
    released = [spec for spec in specs if spec.release is not None]
    if not released:
        return []
    return [release_pilot_sensor(released, [promotion_job(spec) for spec in released])]


def declarative_automation() -> dg.SensorDefinition:
    """Build the sensor for the assets' automation conditions, such as the switch's."""
    return dg.AutomationConditionSensorDefinition(
        # Dagster's own name and default status: stopped.
        "default_automation_condition_sensor",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=sensor_seconds(30),
        description="Switches production to a loaded version as soon as all of its blocking "
        "checks have passed.",
    )


def resources(executor: dg.ExecutorDefinition = dg.in_process_executor) -> dg.Definitions:
    """Return the resources; the environment at run time says where everything is.

    `executor` runs the steps: by default one process per run, so that MLflow and Feast are
    imported once, not once per step.
    """
    return dg.Definitions(
        executor=executor,
        resources={
            "source": SourceResource(),
            "feast": FeastResource(
                state_dir=dg.EnvVar("FEAST_STATE_DIR"),
                online_store=dg.EnvVar("FEAST_ONLINE_STORE"),
                redis=dg.EnvVar("FEAST_REDIS"),
            ),
            "mlflow": MlflowResource(tracking_uri=dg.EnvVar("MLFLOW_TRACKING_URI")),
            "triton": TritonResource(
                url=dg.EnvVar("TRITON_URL"),
                grpc_url=dg.EnvVar("TRITON_GRPC_URL"),
                control_key=dg.EnvVar("TRITON_CONTROL_KEY"),
            ),
            "model_repository": ModelRepository(root=dg.EnvVar("MODEL_REPOSITORY")),
            "gateway": GatewayResource(
                urls=dg.EnvVar("GATEWAY_URLS"), control_token=dg.EnvVar("GATEWAY_CONTROL_TOKEN")
            ),
            "ledger": LedgerFolder(),
            "proof_folder": ProofFolder(root=dg.EnvVar("PROOF_DIR")),
            "samples": SamplesFolder(root=dg.EnvVar("SAMPLES_DIR")),
            "drift_reports": DriftReports(root=dg.EnvVar("REPORTS_DIR")),
            "predictions": PredictionsFolder(root=dg.EnvVar("PREDICTIONS_DIR")),
            "webhook": WebhookResource(),
        },
    )
