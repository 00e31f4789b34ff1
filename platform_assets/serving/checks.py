"""The gates of a loaded version, and the checks of production after the switch."""

from collections.abc import Sequence

import dagster as dg

from platform_assets.export.parity_check import parity_check
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import is_transient, mlflow_failures, request_retry
from platform_assets.resources.gateway import (
    GatewayClientError,
    GatewayResource,
    confirmed_version,
    routed_version,
)
from platform_assets.resources.metadata import table
from platform_assets.resources.mlflow import PRODUCTION_ALIAS, MlflowResource, RegistryError
from platform_assets.serving.answers import ask_gateway
from platform_assets.serving.gates import serving_gates
from platform_assets.serving.records import Promotion
from platform_assets.serving.replay.logged import OutcomeLookup
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import ModelStatus


def serving_checks(spec: ModelSpec, outcomes: OutcomeLookup) -> list[dg.AssetChecksDefinition]:
    """Build the checks of `triton_serving_state` and `gateway_reload` of one model.

    `outcomes` looks up the true values of logged rows, where outcomes are recorded.
    """
    return [
        serving_gates(spec, outcomes),
        _gateway_effective(spec),
        _predict_parity(spec),
        _registry_alias(spec),
    ]


def _gateway_effective(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("gateway_reload"),
        name="gateway_effective",
        blocking=True,
        description="On every replica, production's effective version is the one Triton serves.",
    )
    def gateway_effective(
        gateway_reload: Promotion, gateway: GatewayResource
    ) -> dg.AssetCheckResult:
        expected = gateway_reload.version
        rows: dict[str, tuple[str, str]] = {}
        for replica in gateway.replicas:
            try:
                status = gateway.model_status(replica, spec.model_name)
            except GatewayClientError as error:
                if is_transient(error):
                    request_retry(error)
                rows[replica] = str(error), ""
            else:
                effective = confirmed_version(status, PRODUCTION)
                rows[replica] = str(effective), str(status.ssot.prod_served_version)
        return dg.AssetCheckResult(
            passed=set(rows.values()) == {(str(expected), str(expected))},
            metadata={
                "expected": expected,
                "replicas": table(
                    {"replica": replica, "effective": effective, "served": served}
                    for replica, (effective, served) in rows.items()
                ),
            },
        )

    return gateway_effective


def _predict_parity(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("gateway_reload"),
        name="predict_parity",
        blocking=True,
        description="The gateway answers the whole evaluation set as scikit-learn did.",
    )
    def predict_parity_check(
        gateway_reload: Promotion, gateway: GatewayResource, mlflow: MlflowResource
    ) -> dg.AssetCheckResult:
        with mlflow_failures("predict_parity"):
            registered = mlflow.version(spec.model_name, gateway_reload.version)
            evaluation = mlflow.evaluation_set(gateway_reload.run_id)
        try:
            answers = ask_gateway(registered, evaluation, gateway)
        except GatewayClientError as error:
            if is_transient(error):
                request_retry(error)
            return dg.AssetCheckResult(passed=False, description=str(error))
        return parity_check(
            "predict_parity",
            gateway_reload.run_id,
            evaluation,
            answers,
            tolerance=spec.gates.parity_tolerance,
            mlflow=mlflow,
        )

    return predict_parity_check


def _registry_alias(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("gateway_reload"),
        name="registry_alias",
        description=(
            f"MLflow's alias `{PRODUCTION_ALIAS}` names the version that the gateway really "
            "routes to. Moving the alias changes nothing that is served; it only leaves MLflow "
            "out of date."
        ),
    )
    def registry_alias(mlflow: MlflowResource, gateway: GatewayResource) -> dg.AssetCheckResult:
        try:
            alias = mlflow.alias_version(spec.model_name, PRODUCTION_ALIAS)
            statuses = gateway.model_statuses(spec.model_name)
        except (RegistryError, GatewayClientError) as error:
            return dg.AssetCheckResult(
                passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error)
            )
        return compare_alias(alias, statuses)

    return registry_alias


def compare_alias(alias: int | None, statuses: Sequence[ModelStatus]) -> dg.AssetCheckResult:
    """Compare MLflow's alias with the version that the replicas route to; at worst a warning."""
    routed = {routed_version(status, PRODUCTION) for status in statuses} or {None}
    passed = routed == {alias}
    served = ", ".join(str(version) for version in routed)
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=None
        if passed
        else f"MLflow's alias {PRODUCTION_ALIAS} names version {alias}, but version {served} is "
        "in production and stays so. To move production run the chain or the rollback job; the "
        "alias then follows by itself",
        metadata={"alias_version": str(alias), "production_version": served},
    )
