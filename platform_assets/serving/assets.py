"""triton_serving_state -> gateway_reload -> serving_proof."""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from platform_assets.export.records import PackagedVersion
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.gateway import GatewayClientError, GatewayResource
from platform_assets.resources.metadata import listed
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.proof import ProofFolder
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.answers import warm_up
from platform_assets.serving.ledger import (
    BEST_VERSION,
    PROMOTION,
    read_ledger,
    switch_metadata,
    switch_reason,
)
from platform_assets.serving.loading import load_beside
from platform_assets.serving.promotion import (
    COMPARISON,
    NO_REGRESSION,
    gate_verdict,
    record_in_registry,
    require_gates_passed,
    require_ready,
    retire_surplus,
)
from platform_assets.serving.proof import PROOF_PAGE, collect_proof
from platform_assets.serving.records import GateVerdict, Promotion, ServingState
from platform_assets.serving.switching import ConfirmedSwitch, reload, wait_for_replicas
from platform_assets.serving.turns import CHANGE, LEASE, hold, holding
from platform_assets.serving.view_retention import delete_unread_views
from serving_gateway.contract import Mode, ReloadRequest

_CONFIRMED = "The switch itself was confirmed by every replica."


def serving_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build `triton_serving_state`, `gateway_reload` and `serving_proof` of one model."""
    return [_triton_serving_state(spec), _gateway_reload(spec), _serving_proof(spec)]


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
        hold(LEASE, spec.model_name, context)
        began = time.monotonic()
        with as_failure(
            f"version {triton_model_entry.version} was not loaded",
            "bring Triton back (`make status` tells), then retry this run from here.",
            TritonError,
        ):
            with holding(CHANGE, spec.model_name, context):
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
                "state": "READY" if state.ready else f"not READY: {state.reason}",
                "ready_versions": listed(state.ready_versions),
                "warm_up": warmed,
                "load_seconds": round(time.monotonic() - began, 2),
                "mlflow_run": dg.MetadataValue.url(mlflow.run_url(state.run_id)),
                "triton": dg.MetadataValue.url(triton.url),
            },
        )

    return triton_serving_state


class SwitchConfig(dg.Config):
    """How a switch is done, for every model."""

    unpin: bool = Field(
        default=False,
        description="Move production although an operator pinned it to another version.",
    )
    convergence_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that every replica has to follow the switch."
    )
    reason: str = Field(default="", description="Why, for the routing record and the ledger.")


def _gateway_reload(spec: ModelSpec) -> dg.AssetsDefinition:
    class ReloadConfig(SwitchConfig):
        """How the switch is done."""

        retention: int = Field(
            default=spec.serving.retention,
            ge=1,
            le=spec.serving.keep_versions,
            description="READY versions to keep after the switch, production included.",
        )

    @dg.asset(
        **spec.asset("gateway_reload"),
        ins={"triton_serving_state": dg.AssetIn(key=spec.key("triton_serving_state"))},
        kinds={"fastapi"},
        # Automation, too, switches only to a version that passed all blocking checks; the asset
        # itself refuses any other.
        automation_condition=(
            dg.AutomationCondition.eager()
            & dg.AutomationCondition.all_deps_blocking_checks_passed()
        ),
        description=(
            "The switch: moves variant A of every gateway replica to the version. Asks Triton "
            "for READY itself, and refuses a version whose blocking checks failed or never ran. "
            "Its materializations are the deployment ledger."
        ),
    )
    def gateway_reload(
        context: dg.AssetExecutionContext,
        config: ReloadConfig,
        triton: TritonResource,
        model_repository: ModelRepository,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        feast: FeastResource,
        triton_serving_state: ServingState,
    ) -> dg.MaterializeResult[Promotion]:
        state, log = triton_serving_state, context.log
        hold(LEASE, spec.model_name, context)
        with holding(CHANGE, spec.model_name, context):
            require_ready(state, triton)
            gates = require_gates_passed(state, context.instance)
            switch = _switch(state, spec, config, context.run.run_id, gateway)
            version = switch.answer.version
            retirement = retire_surplus(
                spec,
                version,
                retention=config.retention,
                ledger=read_ledger(context.instance, spec),
                gateway=gateway,
                triton=triton,
                repository=model_repository,
                log=log,
            )
        views = delete_unread_views(
            spec, feast=feast, mlflow=mlflow, triton=triton, repository=model_repository, log=log
        )
        verdict = gate_verdict(gates[NO_REGRESSION])
        more = {
            **retirement,
            **_best_version(gates[NO_REGRESSION].metadata),
            **views,
            **record_in_registry(spec.model_name, version, mlflow, log),
        }
        return dg.MaterializeResult(
            value=Promotion(spec.model_name, state.version, state.run_id, switch.answer, verdict),
            metadata=switch_metadata(spec, switch, mlflow, verdict.metric, more),
        )

    return gateway_reload


def _switch(
    state: ServingState,
    spec: ModelSpec,
    config: SwitchConfig,
    run_id: str,
    gateway: GatewayResource,
) -> ConfirmedSwitch:
    """Move production to the version, and wait until every replica has followed."""
    reason = switch_reason(PROMOTION, run_id, why=config.reason)
    request = ReloadRequest(
        version=state.version,
        run_id=state.run_id,
        mode=Mode.SSOT,
        unpin=config.unpin,
        reason=reason,
        feature_contract=spec.contract,
    )
    answer = reload(spec.model_name, request, gateway)
    live = wait_for_replicas(spec.model_name, answer, gateway, config.convergence_timeout_s)
    return ConfirmedSwitch(answer, live, PROMOTION, reason)


def _best_version(
    judged: Mapping[str, dg.MetadataValue[Any]],
) -> dict[str, dg.MetadataValue[Any]]:
    """What the gate found to be the best version ever in production, for the ledger."""
    return {BEST_VERSION: judged[BEST_VERSION]} if BEST_VERSION in judged else {}


def _serving_proof(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.asset(
        **spec.asset("serving_proof"),
        ins={"gateway_reload": dg.AssetIn(key=spec.key("gateway_reload"))},
        kinds={"json"},
        description=(
            "The evidence, as files and as metadata: what Triton and every gateway say now, and "
            "the deployment ledger."
        ),
    )
    def serving_proof(
        context: dg.AssetExecutionContext,
        triton: TritonResource,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        proof_folder: ProofFolder,
        gateway_reload: Promotion,
    ) -> dg.MaterializeResult[str]:
        hold(LEASE, spec.model_name, context)
        with as_failure(
            "the proof could not be collected",
            "materialize serving_proof again when the server named above answers.",
            *(TritonError, GatewayClientError, RegistryError),
            still_true=_CONFIRMED,
        ):
            files = collect_proof(
                spec,
                gateway_reload,
                read_ledger(context.instance, spec),
                triton=triton,
                gateway=gateway,
                mlflow=mlflow,
            )
        with as_failure(
            f"the proof cannot be written below {proof_folder.root}",
            "make room there and let this user write to it, then materialize serving_proof again.",
            OSError,
            still_true=_CONFIRMED,
        ):
            folder = proof_folder.write(spec.model_name, context.run.run_id, files)
        return dg.MaterializeResult(
            value=str(folder),
            metadata={
                "version": gateway_reload.version,
                **_verdict_metadata(gateway_reload.verdict),
                "page": dg.MetadataValue.path(str(folder / PROOF_PAGE)),
                "deployment_ledger": dg.MetadataValue.md(files["deployment_ledger.md"]),
                **{
                    name: dg.MetadataValue.md(f"```\n{text}\n```")
                    for name, text in files.items()
                    if name.endswith(".txt")
                },
            },
        )

    return serving_proof


def _verdict_metadata(verdict: GateVerdict) -> dict[str, dg.MetadataValue[Any] | str]:
    """The metric against the floor and production, and the picture of that."""
    shown: dict[str, dg.MetadataValue[Any] | str] = {"metric": verdict.metric}
    if verdict.picture:
        shown[COMPARISON] = dg.MetadataValue.md(
            f"![candidate against production]({verdict.picture})"
        )
    return shown
