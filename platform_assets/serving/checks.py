"""The gates between a loaded version and production, and what is checked after the switch."""

import time
from typing import Any

import dagster as dg

from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.gateway import GatewayError, GatewayResource, effective_version
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.assets import gateway_reload, triton_serving_state
from platform_assets.serving.parity import predict_parity, triton_parity
from platform_assets.serving.promotion import LOAD_ID, PRODUCTION
from platform_assets.serving.records import Promotion, ServingState

LATENCY_BUDGET_MS = 50.0
_LATENCY_SAMPLES = 200


@dg.asset_check(
    asset=triton_serving_state,
    blocking=True,
    description=(
        "Triton reports exactly this version READY, by the repository index and by the "
        "versioned ready endpoint, asked now."
    ),
)
def triton_ready(triton_serving_state: ServingState, triton: TritonResource) -> dg.AssetCheckResult:
    """Ask both ways; either saying no keeps the version out of production."""
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
    metadata |= {
        "repository_index": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {"version": entry.version or 0, "state": entry.state, "reason": entry.reason}
                )
                for entry in index
            ]
        ),
        "index_says_ready": by_index,
        "endpoint_says_ready": endpoint,
        "still_ready": ", ".join(str(entry.version) for entry in index if entry.state == "READY")
        or "none",
    }
    passed = by_index and endpoint
    return dg.AssetCheckResult(
        passed=passed,
        description=(
            f"version {state.version} is READY"
            if passed
            else f"version {state.version} is not READY ({reason or 'Triton gives no reason'}); "
            "production stays where it is"
        ),
        metadata=metadata,
    )


@dg.asset_check(
    asset=triton_serving_state,
    name="triton_parity",
    blocking=True,
    description=(
        "Over the wire, this version answers the whole evaluation set as scikit-learn did: "
        "labels equal, probabilities within tolerance."
    ),
)
def triton_parity_check(
    triton_serving_state: ServingState, triton: TritonResource, mlflow: MlflowResource
) -> dg.AssetCheckResult:
    """Compare what Triton really answers with what was trained."""
    state = triton_serving_state
    judged: dict[str, Any] = {"version": state.version, LOAD_ID: state.load_id}
    with mlflow_failures("triton_parity"):
        registered = mlflow.version(state.model_name, state.version)
        evaluation = mlflow.evaluation_set(state.run_id)
    try:
        parity = triton_parity(
            evaluation,
            registered.signature,
            triton,
            model_name=state.model_name,
            version=state.version,
        )
    except TritonError as error:
        return dg.AssetCheckResult(
            passed=False,
            description=f"version {state.version} did not answer: {error}",
            metadata=judged,
        )
    return dg.AssetCheckResult(passed=parity.holds, metadata={**judged, **parity.metadata()})


@dg.asset_check(
    asset=triton_serving_state,
    description=(
        f"Single rows are answered within {LATENCY_BUDGET_MS:.0f} ms at the 99th percentile; "
        "a warning, since a busy machine is no fault of the model."
    ),
)
def triton_latency(
    triton_serving_state: ServingState, triton: TritonResource, mlflow: MlflowResource
) -> dg.AssetCheckResult:
    """Time single-row inferences, one after the other, and warn over budget."""
    import numpy as np

    from platform_assets.packaging.onnx_export import model_inputs

    state = triton_serving_state
    took: list[float] = []
    try:
        registered = mlflow.version(state.model_name, state.version)
        rows = mlflow.evaluation_set(state.run_id).features.head(1)
        inputs = model_inputs(registered.signature, rows)
        for _ in range(_LATENCY_SAMPLES):
            began = time.perf_counter()
            triton.infer(
                state.model_name, state.version, inputs, [registered.signature.label_output]
            )
            took.append((time.perf_counter() - began) * 1e3)
    except (TritonError, RegistryError) as error:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error)
        )
    p50, p99 = (round(float(np.percentile(took, q)), 2) for q in (50, 99))
    return dg.AssetCheckResult(
        passed=p99 <= LATENCY_BUDGET_MS,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "p50_ms": p50,
            "p99_ms": p99,
            "budget_ms": LATENCY_BUDGET_MS,
            "samples": len(took),
        },
    )


@dg.asset_check(
    asset=gateway_reload,
    blocking=True,
    description="On every replica, production's effective version is the one Triton serves.",
)
def gateway_effective(gateway_reload: Promotion, gateway: GatewayResource) -> dg.AssetCheckResult:
    """Read `GET /models` of every replica."""
    expected = gateway_reload.version
    rows: list[dg.TableRecord] = []
    agree = True
    for replica in gateway.replicas:
        try:
            page = gateway.models(replica)
        except GatewayError as error:
            agree = False
            rows.append(dg.TableRecord({"replica": replica, "effective": str(error), "served": ""}))
            continue
        effective = effective_version(page, PRODUCTION)
        served = page["ssot"]["prod_served_version"]
        agree = agree and effective == served == expected
        rows.append(
            dg.TableRecord({"replica": replica, "effective": str(effective), "served": str(served)})
        )
    return dg.AssetCheckResult(
        passed=agree and bool(rows),
        metadata={"expected": expected, "replicas": dg.MetadataValue.table(rows)},
    )


@dg.asset_check(
    asset=gateway_reload,
    name="predict_parity",
    blocking=True,
    description="`POST /predict` answers the whole evaluation set as scikit-learn did.",
)
def predict_parity_check(
    gateway_reload: Promotion, gateway: GatewayResource, mlflow: MlflowResource
) -> dg.AssetCheckResult:
    """Compare the answers that clients get with what was trained."""
    with mlflow_failures("predict_parity"):
        registered = mlflow.version(gateway_reload.model_name, gateway_reload.version)
        evaluation = mlflow.evaluation_set(gateway_reload.run_id)
    try:
        parity, _labels = predict_parity(
            evaluation, registered.signature, gateway, version=gateway_reload.version
        )
    except GatewayError as error:
        return dg.AssetCheckResult(passed=False, description=str(error))
    return dg.AssetCheckResult(passed=parity.holds, metadata=parity.metadata())
