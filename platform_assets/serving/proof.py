"""The evidence that a person would ask for."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.parity import predict_parity
from platform_assets.serving.records import Promotion

_ROWS_SHOWN = 5


def collect_proof(
    promotion: Promotion,
    *,
    triton: TritonResource,
    gateway: GatewayResource,
    mlflow: MlflowResource,
) -> dict[str, str]:
    """Ask every server and return {file name: text}.

    Raises:
        TritonError, GatewayError, RegistryError: a server does not answer.
    """
    return {
        "triton_ready_and_repo_index.txt": _triton_says(promotion, triton),
        "reload_variant_A.json": msgspec.json.format(
            msgspec.json.encode(promotion.answer), indent=2
        ).decode(),
        "gateway_health_models_metrics.txt": _gateways_say(gateway),
        "prediction_parity.txt": _parity_table(promotion, gateway, mlflow),
    }


def _triton_says(promotion: Promotion, triton: TritonResource) -> str:
    name, version = promotion.model_name, promotion.version
    index = [
        {"name": entry.name, "version": str(entry.version), "state": entry.state}
        for entry in triton.index(name)
    ]
    ready = "200" if triton.version_ready(name, version) else "not 200"
    return "\n".join(
        [
            f"GET {triton.url}/v2/models/{name}/versions/{version}/ready",
            ready,
            "",
            f"POST {triton.url}/v2/repository/index",
            *(json.dumps(row, separators=(",", ":")) for row in index),
        ]
    )


def _gateways_say(gateway: GatewayResource) -> str:
    parts: list[str] = []
    for replica in gateway.replicas:
        for path, answer in (
            ("/health", _pretty(gateway.health(replica))),
            ("/models", _pretty(gateway.models(replica))),
            ("/metrics", gateway.metrics(replica)),
        ):
            parts += [f"GET {replica}{path}", answer, ""]
    return "\n".join(parts)


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2)


def _parity_table(promotion: Promotion, gateway: GatewayResource, mlflow: MlflowResource) -> str:
    registered = mlflow.version(promotion.model_name, promotion.version)
    evaluation = mlflow.evaluation_set(registered.run_id)
    parity, answers = predict_parity(
        evaluation, registered.signature, gateway, version=promotion.version
    )
    lines = [
        f"{name}: {value}" for name, value in {**parity.metadata(), "holds": parity.holds}.items()
    ]
    lines += ["", "row  features -> gateway (scikit-learn)"]
    rows = evaluation.features.head(_ROWS_SHOWN).to_numpy().tolist()
    lines += [
        f"{position:3}  {row} -> {answers[position]} ({evaluation.labels[position]})"
        for position, row in enumerate(rows)
    ]
    return "\n".join(lines)
