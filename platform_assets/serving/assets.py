"""triton_serving_state -> gateway_reload -> serving_proof."""

import time

import dagster as dg
import msgspec
from pydantic import Field

from platform_assets.packaging.records import PackagedVersion
from platform_assets.resources.failures import failure
from platform_assets.resources.gateway import GatewayError, GatewayRefused, GatewayResource
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.proof import ProofFolder
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.loading import load_beside
from platform_assets.serving.promotion import (
    PRODUCTION,
    refuse_unless_gated,
    refuse_unless_ready,
    retire_surplus,
    tell_registry,
)
from platform_assets.serving.proof import collect_proof
from platform_assets.serving.records import Promotion, ServingState
from serving_gateway.contract import Mode, ReloadRequest

SERVING_POOL = "serving_best_model"
"""Runs that change the model's serving state hold this pool, one at a time."""

_OWNERS = ["team:ml-platform"]


class LoadConfig(dg.Config):
    """How long a load may take."""

    ready_timeout_s: float = Field(
        default=120.0, gt=0, description="Seconds to wait for READY after Triton took the load."
    )


@dg.asset(
    group_name="serving",
    owners=_OWNERS,
    pool=SERVING_POOL,
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
    triton_model_entry: PackagedVersion,
) -> dg.MaterializeResult[ServingState]:
    """Load a version; a candidate that fails is recorded, a Triton that is down fails the step."""
    began = time.monotonic()
    try:
        state = load_beside(
            triton_model_entry,
            triton=triton,
            repository=model_repository,
            timeout_s=config.ready_timeout_s,
            log=context.log.info,
        )
    except TritonError as error:
        raise failure(
            f"version {triton_model_entry.version} was not loaded: {error}",
            "bring Triton back (`make status` tells), then retry this run from here.",
            allow_retries=True,
        ) from error
    if not state.ready:
        context.log.error(f"version {state.version} is not READY: {state.reason}")
    return dg.MaterializeResult(
        value=state,
        metadata={
            "version": state.version,
            "run_id": state.run_id,
            "ready": state.ready,
            "reason": state.reason or "READY",
            "ready_versions": ", ".join(map(str, state.ready_versions)) or "none",
            "load_seconds": round(time.monotonic() - began, 2),
            "triton": dg.MetadataValue.url(triton.url),
        },
    )


class ReloadConfig(dg.Config):
    """How the switch is done."""

    unpin: bool = Field(
        default=False,
        description="Move production although an operator pinned it to another version.",
    )
    retention: int = Field(
        default=2, ge=1, description="READY versions to keep after the switch, production included."
    )
    convergence_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that every replica has to follow the switch."
    )
    reason: str = Field(default="", description="Why, for the routing record.")


@dg.asset(
    group_name="serving",
    owners=_OWNERS,
    pool=SERVING_POOL,
    kinds={"fastapi"},
    description=(
        "The switch: moves variant A of every gateway replica to the version. Asks Triton for "
        "READY itself, and refuses a version whose blocking checks failed or never ran."
    ),
)
def gateway_reload(
    context: dg.AssetExecutionContext,
    config: ReloadConfig,
    triton: TritonResource,
    model_repository: ModelRepository,
    gateway: GatewayResource,
    mlflow: MlflowResource,
    triton_serving_state: ServingState,
) -> dg.MaterializeResult[Promotion]:
    """Switch production, wait for every replica, retire what is beyond retention."""
    state = triton_serving_state
    refuse_unless_ready(state, triton)
    refuse_unless_gated(state, context.instance)
    request = ReloadRequest(
        version=state.version,
        run_id=state.run_id,
        mode=Mode.SSOT,
        unpin=config.unpin,
        reason=config.reason or f"promotion by Dagster run {context.run.run_id}",
    )
    try:
        answer = gateway.reload(PRODUCTION, request)
        followed = gateway.wait_switched(PRODUCTION, answer, config.convergence_timeout_s)
    except GatewayError as error:
        pinned = isinstance(error, GatewayRefused) and error.code == "variant_pinned"
        raise failure(
            f"production was not confirmed on version {state.version}: {error}",
            "launch gateway_reload with unpin: true in its configuration if the pin is over."
            if pinned
            else "look at GET /models of the gateway for what it serves, mend the cause it names, "
            "and materialize gateway_reload again.",
            still_true="Each gateway that runs goes on serving what it confirmed last.",
            allow_retries=True,
        ) from error
    if followed.late:
        raise failure(
            f"the routing record names version {state.version}, but after "
            f"{config.convergence_timeout_s:.0f} s these replicas did not confirm it: "
            + ", ".join(f"{replica} ({how})" for replica, how in sorted(followed.late.items())),
            "look at /ready of those replicas; materialize gateway_reload again when they follow.",
            still_true="A replica that cannot confirm its version is not ready and gets no "
            "traffic; the others serve.",
            allow_retries=True,
        )
    retirement = retire_surplus(
        state.model_name,
        state.version,
        retention=config.retention,
        gateway=gateway,
        triton=triton,
        repository=model_repository,
        log=context.log,
    )
    return dg.MaterializeResult(
        value=Promotion(state.model_name, state.version, state.run_id, answer),
        metadata={
            "version": state.version,
            "previous_version": answer.previous_version or "none",
            "run_id": state.run_id,
            "generation": answer.generation,
            "changed": answer.changed,
            "reason": request.reason or "",
            "replicas": "\n".join(followed.live),
            "reload": dg.MetadataValue.json(msgspec.to_builtins(answer)),
            "mlflow_version": dg.MetadataValue.url(
                mlflow.version_url(state.model_name, state.version)
            ),
            **retirement,
            **tell_registry(state, mlflow, context.log),
        },
    )


@dg.asset(
    group_name="serving",
    owners=_OWNERS,
    pool=SERVING_POOL,
    kinds={"json"},
    description="The evidence, as files and as metadata: what Triton and every gateway say now.",
)
def serving_proof(
    context: dg.AssetExecutionContext,
    triton: TritonResource,
    gateway: GatewayResource,
    mlflow: MlflowResource,
    proof_folder: ProofFolder,
    gateway_reload: Promotion,
) -> dg.MaterializeResult[str]:
    """Write the proof of a promotion; the value is the folder that holds it."""
    try:
        files = collect_proof(gateway_reload, triton=triton, gateway=gateway, mlflow=mlflow)
    except (TritonError, GatewayError, RegistryError) as error:
        raise failure(
            f"the proof could not be collected: {error}",
            "materialize serving_proof again when the server named above answers.",
            still_true="The switch itself was confirmed by every replica.",
            allow_retries=True,
        ) from error
    folder = proof_folder.write(context.run.run_id, files)
    return dg.MaterializeResult(
        value=str(folder),
        metadata={
            "version": gateway_reload.version,
            "folder": dg.MetadataValue.path(str(folder)),
            **{
                name.replace(".", "_"): dg.MetadataValue.md(f"```\n{text}\n```")
                for name, text in files.items()
            },
        },
    )
