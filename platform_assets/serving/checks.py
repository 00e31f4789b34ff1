"""What is asked of a loaded version, and of production after the switch."""

import time
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.packaging.onnx_export import model_inputs
from platform_assets.packaging.parity_check import parity_check
from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.gateway import (
    GatewayClientError,
    GatewayResource,
    confirmed_version,
    routed_version,
)
from platform_assets.resources.mlflow import PRODUCTION_ALIAS, MlflowResource, RegistryError
from platform_assets.resources.triton import TritonEndpoint, TritonError, TritonResource
from platform_assets.serving.gates import champion_gates
from platform_assets.serving.parity import ask_gateway, ask_triton
from platform_assets.serving.pictures import latency_picture
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.records import Promotion, ServingState
from platform_assets.serving.switching import PRODUCTION
from platform_assets.training.pictures import inline
from serving_gateway.contract import Signature

if TYPE_CHECKING:
    import pandas as pd

_LATENCY_ROUNDS = 3
_LATENCY_SAMPLES = 100


def serving_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build the checks of `triton_serving_state` and `gateway_reload` of one model."""
    return [
        _triton_ready(spec),
        _triton_parity(spec),
        _triton_latency(spec),
        *champion_gates(spec),
        _gateway_effective(spec),
        _predict_parity(spec),
        _registry_alias(spec),
    ]


def _triton_ready(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("triton_serving_state"),
        name="triton_ready",
        blocking=True,
        description=(
            "Triton reports exactly this version READY, by the repository index and by the "
            "versioned ready endpoint, asked now."
        ),
    )
    def triton_ready(
        triton_serving_state: ServingState, triton: TritonResource
    ) -> dg.AssetCheckResult:
        state = triton_serving_state
        metadata: dict[str, Any] = {
            "version": state.version,
            "run_id": state.run_id,
            LOAD_ID: state.load_id,
        }
        try:
            index = triton.index(state.model_name)
            endpoint = triton.version_ready(state.model_name, state.version)
        except TritonError as error:
            return dg.AssetCheckResult(
                passed=False, description=f"Triton could not be asked: {error}", metadata=metadata
            )
        entries = [entry for entry in index if entry.version == state.version]
        by_index = [entry.state for entry in entries] == ["READY"]
        reason = state.reason or "; ".join(entry.reason for entry in entries if entry.reason)
        still = [str(entry.version) for entry in index if entry.state == "READY"]
        metadata |= {
            "repository_index": dg.MetadataValue.table(
                [
                    dg.TableRecord(
                        {"version": one.version or 0, "state": one.state, "reason": one.reason}
                    )
                    for one in index
                ]
            ),
            "index_says_ready": by_index,
            "endpoint_says_ready": endpoint,
            "still_ready": ", ".join(still) or "none",
        }
        passed = by_index and endpoint
        return dg.AssetCheckResult(
            passed=passed,
            description=(
                f"version {state.version} is READY"
                if passed
                else f"version {state.version} is not READY ({reason or 'Triton gives no reason'})"
                "; production stays where it is"
            ),
            metadata=metadata,
        )

    return triton_ready


def _triton_parity(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("triton_serving_state"),
        name="triton_parity",
        blocking=True,
        description=(
            "Over the wire, this version answers the whole evaluation set as scikit-learn did: "
            "labels equal, numbers within tolerance."
        ),
    )
    def triton_parity_check(
        triton_serving_state: ServingState, triton: TritonResource, mlflow: MlflowResource
    ) -> dg.AssetCheckResult:
        state = triton_serving_state
        judged: dict[str, Any] = {"version": state.version, LOAD_ID: state.load_id}
        with mlflow_failures("triton_parity"):
            registered = mlflow.version(state.model_name, state.version)
            evaluation = mlflow.evaluation_set(state.run_id)
        try:
            answers = triton.everywhere(
                lambda endpoint: ask_triton(
                    evaluation.features,
                    registered.signature,
                    endpoint,
                    model_name=state.model_name,
                    version=state.version,
                )
            )
        except TritonError as error:
            return dg.AssetCheckResult(
                passed=False,
                description=f"version {state.version} did not answer: {error}",
                metadata=judged,
            )
        for labels, probabilities in answers:
            verdict = parity_check(
                "triton_parity",
                state.run_id,
                evaluation,
                labels,
                probabilities,
                tolerance=spec.gates.parity_tolerance,
                mlflow=mlflow,
                metadata={**judged, "servers": len(answers)},
            )
            if not verdict.passed:
                break  # one server that answers otherwise is enough
        return verdict

    return triton_parity_check


def _triton_latency(spec: ModelSpec) -> dg.AssetChecksDefinition:
    budget = spec.gates.latency_ms

    @dg.asset_check(
        asset=spec.key("triton_serving_state"),
        name="triton_latency",
        blocking=True,
        description=(
            f"Single rows are answered within {budget:g} ms at the 99th percentile, in the best "
            "of three rounds: a machine that is busy for a moment is no fault of the model."
        ),
    )
    def triton_latency(
        triton_serving_state: ServingState, triton: TritonResource, mlflow: MlflowResource
    ) -> dg.AssetCheckResult:
        state = triton_serving_state
        judged: dict[str, Any] = {"version": state.version, LOAD_ID: state.load_id}

        def best_round(endpoint: TritonEndpoint) -> list[float]:
            rounds = [_one_round(state, row, signature, endpoint) for _ in range(_LATENCY_ROUNDS)]
            return min(rounds, key=lambda took: _percentile(took, 99))

        try:
            signature = mlflow.version(state.model_name, state.version).signature
            row = mlflow.evaluation_set(state.run_id).features.head(1)
            # Of several servers the slowest counts.
            best = max(triton.everywhere(best_round), key=lambda took: _percentile(took, 99))
        except (TritonError, RegistryError) as error:
            return dg.AssetCheckResult(passed=False, description=str(error), metadata=judged)
        p50, p99 = (round(_percentile(best, q), 2) for q in (50, 99))
        passed = p99 <= budget
        return dg.AssetCheckResult(
            passed=passed,
            description=None
            if passed
            else f"a row takes {p99:g} ms at the 99th percentile, over the budget of {budget:g} ms",
            metadata={
                **judged,
                "p50_ms": p50,
                "p99_ms": p99,
                "budget_ms": budget,
                "samples": len(best),
                "latencies": dg.MetadataValue.md(
                    inline(latency_picture(best, budget), "latency of single rows")
                ),
            },
        )

    return triton_latency


def _one_round(
    state: ServingState, row: "pd.DataFrame", signature: Signature, triton: TritonEndpoint
) -> list[float]:
    """Milliseconds of single-row inferences, one after the other."""
    inputs = model_inputs(signature, row)
    took: list[float] = []
    for _ in range(_LATENCY_SAMPLES):
        began = time.perf_counter()
        triton.infer(state.model_name, state.version, inputs, [signature.label_output])
        took.append((time.perf_counter() - began) * 1e3)
    return took


def _percentile(took: list[float], percent: float) -> float:
    import numpy as np

    return float(np.percentile(took, percent))


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
        rows: list[dg.TableRecord] = []
        agree = True
        for replica in gateway.replicas:
            try:
                status = gateway.model_status(replica, spec.model_name)
            except GatewayClientError as error:
                agree = False
                rows.append(
                    dg.TableRecord({"replica": replica, "effective": str(error), "served": ""})
                )
                continue
            effective = confirmed_version(status, PRODUCTION)
            served = status.ssot.prod_served_version
            agree = agree and effective == served == expected
            rows.append(
                dg.TableRecord(
                    {"replica": replica, "effective": str(effective), "served": str(served)}
                )
            )
        return dg.AssetCheckResult(
            passed=agree and bool(rows),
            metadata={"expected": expected, "replicas": dg.MetadataValue.table(rows)},
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
            labels, probabilities = ask_gateway(
                evaluation.features,
                registered.signature,
                gateway,
                model_name=spec.model_name,
                version=gateway_reload.version,
                dtype=evaluation.labels.dtype,
            )
        except GatewayClientError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        return parity_check(
            "predict_parity",
            gateway_reload.run_id,
            evaluation,
            labels,
            probabilities,
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
        return compare_alias(spec.model_name, mlflow, gateway)

    return registry_alias


def compare_alias(
    model_name: str, mlflow: MlflowResource, gateway: GatewayResource
) -> dg.AssetCheckResult:
    """Compare what MLflow is told with what is served; a warning, whatever comes out."""
    warn = dg.AssetCheckSeverity.WARN
    try:
        alias = mlflow.alias_version(model_name, PRODUCTION_ALIAS)
        statuses = gateway.model_statuses(model_name)
    except (RegistryError, GatewayClientError) as error:
        return dg.AssetCheckResult(passed=False, severity=warn, description=str(error))
    routed = {routed_version(status, PRODUCTION) for status in statuses} or {None}
    passed = routed == {alias}
    served = ", ".join(str(version) for version in routed)
    return dg.AssetCheckResult(
        passed=passed,
        severity=warn,
        description=None
        if passed
        else f"MLflow's alias {PRODUCTION_ALIAS} names version {alias}, but version {served} is "
        "in production and stays so. To move production run the chain or the rollback job; the "
        "alias then follows by itself",
        metadata={"alias_version": str(alias), "production_version": served},
    )
