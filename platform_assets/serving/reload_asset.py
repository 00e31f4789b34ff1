"""`gateway_reload`: the switch of production to a version that is READY and passed every gate."""

import dagster as dg
from pydantic import Field

from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.ledger import (
    BEST_VERSION,
    PROMOTION,
    read_ledger,
    switch_metadata,
    switch_reason,
)
from platform_assets.serving.ledger_entries import LedgerWriter, head_tags
from platform_assets.serving.loads import newest_load
from platform_assets.serving.promotion import (
    NO_REGRESSION,
    delete_unread_views,
    gate_verdict,
    record_in_registry,
    require_gates_passed,
    require_ready,
    retire_surplus,
)
from platform_assets.serving.records import Promotion, ServingState
from platform_assets.serving.release_gate import require_cleared_release
from platform_assets.serving.switch_evidence import switch_content
from platform_assets.serving.switching import ConfirmedSwitch, reload, wait_for_replicas
from platform_assets.serving.turns import CHANGE, LEASE, acquire_turn, hold_turn
from serving_gateway.contract import Mode, ReloadRequest

_DESCRIPTION = (
    "The switch: moves variant A of every gateway replica to the version. Asks Triton for READY "
    "itself, and refuses a version whose blocking checks failed or never ran, or whose release, "
    "where the model has one, has not reached go. Its materializations are the "
    "deployment ledger."
)
_AUTOMATION = (
    # The condition, too, admits only a version that passed all blocking checks; the asset itself
    # refuses any other.
    dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
)


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


def gateway_reload_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """Build `gateway_reload`."""

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
        # Where versions are released in steps, the pilot of the releases launches the switch.
        automation_condition=None if spec.release else _AUTOMATION,
        description=_DESCRIPTION,
    )
    def gateway_reload(
        context: dg.AssetExecutionContext,
        config: ReloadConfig,
        triton: TritonResource,
        model_repository: ModelRepository,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        feast: FeastResource,
        ledger: LedgerFolder,
        triton_serving_state: ServingState,
    ) -> dg.MaterializeResult[Promotion]:
        log, instance, run_id = context.log, context.instance, context.run.run_id
        acquire_turn(LEASE, spec.model_name, context)
        with hold_turn(CHANGE, spec.model_name, context):
            state = require_cleared_release(spec, triton_serving_state, gateway, instance)
            require_ready(state, triton)
            gates = require_gates_passed(state, instance)
            switch = _switch(state, spec, config, run_id, gateway)
            content = switch_content(
                spec, switch, model_repository, by="", dagster_run=run_id, gates=gates
            )
            entered = LedgerWriter(spec, ledger, instance).enter_switch(content)
            newest = newest_load(instance, spec)
            judged = gates[NO_REGRESSION]
            best = judged.metadata.get(BEST_VERSION)
            retirement = retire_surplus(
                spec,
                state.version,
                retention=config.retention,
                # A release outlasts a training that loads the next version.
                waiting=() if newest is None else (newest.state.version,),
                ledger=read_ledger(instance, spec),
                best=None if best is None else int(str(best.value)),
                gateway=gateway,
                triton=triton,
                repository=model_repository,
                log=log,
            )
        views = delete_unread_views(
            spec, feast=feast, mlflow=mlflow, triton=triton, repository=model_repository, log=log
        )
        tags = head_tags(entered)
        recorded = record_in_registry(spec.model_name, state.version, mlflow, log, tags)
        verdict = gate_verdict(judged)
        return dg.MaterializeResult(
            value=Promotion(spec.model_name, state.version, state.run_id, switch.answer, verdict),
            metadata=switch_metadata(
                spec,
                switch,
                mlflow,
                verdict.metric,
                {
                    **retirement,
                    **({} if best is None else {BEST_VERSION: best}),
                    **views,
                    **recorded,
                    **entered,
                },
            ),
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
