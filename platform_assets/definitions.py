"""The Dagster code location: the slices and their resources, merged."""

import dagster as dg

from platform_assets import automation
from platform_assets.features.assets import feature_assets
from platform_assets.features.checks import feature_checks
from platform_assets.features.spec import IRIS
from platform_assets.packaging import assets as packaging_assets
from platform_assets.packaging import checks as packaging_checks
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.proof import ProofFolder
from platform_assets.resources.source import SourceResource
from platform_assets.resources.triton import TritonResource
from platform_assets.serving import assets as serving_assets
from platform_assets.serving import checks as serving_checks
from platform_assets.training.assets import training_assets
from platform_assets.training.checks import training_checks

defs = dg.Definitions(
    assets=[
        *feature_assets(IRIS),
        *training_assets(IRIS),
        *dg.load_assets_from_modules([packaging_assets, serving_assets]),
    ],
    asset_checks=[
        *feature_checks(IRIS),
        *training_checks(IRIS),
        *dg.load_asset_checks_from_modules([packaging_checks, serving_checks]),
    ],
    jobs=[
        automation.full_chain_job,
        automation.serving_job,
        automation.reconcile_serving_job,
    ],
    schedules=[automation.retraining_schedule],
    sensors=[automation.new_source_data, automation.serving_drift],
    # One process per run: MLflow and Feast are imported once, not once per step.
    executor=dg.in_process_executor,
    resources={
        "source": SourceResource(path=dg.EnvVar("SOURCE_PATH")),
        "feast": FeastResource(
            repo_path=dg.EnvVar("FEAST_REPO"),
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
        "proof_folder": ProofFolder(root=dg.EnvVar("PROOF_DIR")),
    },
)
