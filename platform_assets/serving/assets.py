"""triton_serving_state -> gateway_reload -> serving_proof."""

import time

import dagster as dg
from pydantic import Field

from platform_assets.export.records import PackagedVersion
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure
from platform_assets.resources.metadata import join_versions
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.answers import warm_up
from platform_assets.serving.loading import load_beside
from platform_assets.serving.loads import READY, RUN_ID
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.proof_asset import serving_proof_asset
from platform_assets.serving.records import ServingState
from platform_assets.serving.reload_asset import gateway_reload_asset
from platform_assets.serving.turns import CHANGE, LEASE, acquire_turn, hold_turn


def serving_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build `triton_serving_state`, `gateway_reload` and `serving_proof` of one model."""
    return [_triton_serving_state(spec), gateway_reload_asset(spec), serving_proof_asset(spec)]


class LoadConfig(dg.Config):
    """How long a load may take."""

    ready_timeout_s: float = Field(
        default=120.0, gt=0, description="Seconds to wait for READY after Triton took the load."
    )


def _triton_serving_state(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.asset(
        **spec.asset("triton_serving_state"),
        ins={"triton_model_entry": dg.AssetIn(key=spec.key("triton_model_entry"))},
        kinds={"triton"},
        description=(
            "Loads the packaged version into Triton beside those that serve, and records what "
            "Triton says of it. The blocking checks judge that record; production does not move."
        ),
    )
    def triton_serving_state(
        context: dg.AssetExecutionContext,
        config: LoadConfig,
        triton: TritonResource,
        model_repository: ModelRepository,
        mlflow: MlflowResource,
        triton_model_entry: PackagedVersion,
    ) -> dg.MaterializeResult[ServingState]:
        # A candidate that fails is recorded; a Triton that is down fails the step.
        acquire_turn(LEASE, spec.model_name, context)
        began = time.monotonic()
        with as_failure(
            f"version {triton_model_entry.version} was not loaded",
            "bring Triton back (`make status` tells), then retry this run from here.",
            TritonError,
        ):
            with hold_turn(CHANGE, spec.model_name, context):
                state = load_beside(
                    triton_model_entry,
                    triton=triton,
                    repository=model_repository,
                    timeout_s=config.ready_timeout_s,
                    log=context.log.info,
                )
            warmed = warm_up(spec, state, triton, mlflow) if state.ready else "not READY"
        if not state.ready:
            context.log.error(f"version {state.version} is not READY: {state.reason}")
        return dg.MaterializeResult(
            value=state,
            metadata={
                "version": state.version,
                "state": READY if state.ready else f"not READY: {state.reason}",
                "ready_versions": join_versions(state.ready_versions),
                "warm_up": warmed,
                "load_seconds": round(time.monotonic() - began, 2),
                "mlflow_run": dg.MetadataValue.url(mlflow.run_url(state.run_id)),
                "triton": dg.MetadataValue.url(triton.url),
                RUN_ID: state.run_id,
                LOAD_ID: state.load_id,
            },
        )

    return triton_serving_state
