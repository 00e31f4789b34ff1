"""The evidence that a person would ask for."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from platform_assets.export.parity import compare
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.triton import TritonEndpoint, TritonResource
from platform_assets.serving.answers import ask_gateway, json_rows
from platform_assets.serving.ledger import Entry, ledger_json, ledger_markdown
from platform_assets.serving.records import Promotion

_ROWS_SHOWN = 5


def collect_proof(
    spec: ModelSpec,
    promotion: Promotion,
    ledger: Sequence[Entry],
    *,
    triton: TritonResource,
    gateway: GatewayResource,
    mlflow: MlflowResource,
) -> dict[str, str]:
    """Ask every server and return {file name: text}.

    Raises:
        TritonError, GatewayClientError, RegistryError: a server does not answer.
    """
    return {
        "triton_ready_and_repo_index.txt": _triton_says(promotion, triton),
        "reload_variant_A.json": _pretty(promotion.answer),
        "gateway_health_models_metrics.txt": _gateways_say(promotion.model_name, gateway),
        "prediction_parity.txt": _parity_table(spec, promotion, gateway, mlflow),
        "deployment_ledger.md": ledger_markdown(ledger),
        "deployment_ledger.json": ledger_json(ledger),
    }


def _triton_says(promotion: Promotion, triton: TritonResource) -> str:
    name, version = promotion.model_name, promotion.version

    def said(endpoint: TritonEndpoint) -> str:
        index = [
            {"name": entry.name, "version": str(entry.version), "state": entry.state}
            for entry in endpoint.index(name)
        ]
        ready = "200" if endpoint.version_ready(name, version) else "not 200"
        return "\n".join(
            [
                f"GET {endpoint.url}/v2/models/{name}/versions/{version}/ready",
                ready,
                "",
                f"POST {endpoint.url}/v2/repository/index",
                *(json.dumps(row, separators=(",", ":")) for row in index),
            ]
        )

    return "\n\n".join(triton.everywhere(said))


def _gateways_say(model_name: str, gateway: GatewayResource) -> str:
    parts: list[str] = []
    for replica in gateway.replicas:
        for path, answer in (
            (f"/models/{model_name}/health", _pretty(gateway.health(replica, model_name))),
            (f"/models/{model_name}", _pretty(gateway.model_status(replica, model_name))),
            ("/metrics", gateway.metrics(replica)),
        ):
            parts += [f"GET {replica}{path}", answer, ""]
    return "\n".join(parts)


def _pretty(body: msgspec.Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def _parity_table(
    spec: ModelSpec, promotion: Promotion, gateway: GatewayResource, mlflow: MlflowResource
) -> str:
    registered = mlflow.version(promotion.model_name, promotion.version)
    evaluation = mlflow.evaluation_set(registered.run_id)
    answers, probabilities = ask_gateway(
        evaluation.features,
        registered.signature,
        gateway,
        model_name=promotion.model_name,
        version=promotion.version,
        dtype=evaluation.labels.dtype,
    )
    parity = compare(
        answers,
        probabilities,
        evaluation.labels,
        evaluation.probabilities,
        spec.gates.parity_tolerance,
    )
    lines = [
        f"{name}: {value}" for name, value in {**parity.metadata(), "holds": parity.holds}.items()
    ]
    lines += ["", "row  features -> gateway (scikit-learn)"]
    rows = json_rows(registered.signature, evaluation.features.head(_ROWS_SHOWN))
    lines += [
        f"{position:3}  {row} -> {answers[position]} ({evaluation.labels[position]})"
        for position, row in enumerate(rows)
    ]
    return "\n".join(lines)
