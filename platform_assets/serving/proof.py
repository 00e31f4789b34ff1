"""The evidence of a switch: the answers of every server, as files and as one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from platform_assets.decimals import shortest_decimal
from platform_assets.export.parity import Parity, compare_with
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.triton import TritonEndpoint, TritonResource
from platform_assets.serving.answers import ask_gateway, json_rows
from platform_assets.serving.ledger import Entry, ledger_json, ledger_markdown
from platform_assets.serving.proof_page import Evidence, proof_page
from platform_assets.serving.records import Promotion
from serving_gateway.contract import DType, ModelStatus, Signature

if TYPE_CHECKING:
    from platform_assets.resources.records import EvaluationSet

PROOF_PAGE = "proof.html"

_SHOWN: Final = 5


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
    name, version = promotion.model_name, promotion.version
    answers = triton.everywhere(lambda endpoint: _triton_evidence(promotion, endpoint))
    statuses = {url: gateway.model_status(url, name) for url in gateway.replicas}
    parity, rows = ask_gateway_again(spec, promotion, gateway, mlflow)
    files = {
        "triton_ready_and_repo_index.txt": "\n\n".join(text for _, text in answers),
        "reload_variant_A.json": _pretty(promotion.answer),
        "gateway_health_models_metrics.txt": _gateway_evidence(statuses, name, gateway),
        "prediction_parity.txt": _parity_table(parity, rows),
    }
    evidence = Evidence(
        promotion=promotion,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        ready_servers=[ready for ready, _ in answers],
        statuses=[*statuses.values()],
        parity=parity,
        rows=rows,
        ledger=ledger,
        run_url=mlflow.run_url(promotion.run_id),
        version_url=mlflow.version_url(name, version),
    )
    ledgers = {
        "deployment_ledger.md": ledger_markdown(ledger),
        "deployment_ledger.json": ledger_json(ledger),
    }
    return {PROOF_PAGE: proof_page(evidence, files), **files, **ledgers}


def _triton_evidence(promotion: Promotion, endpoint: TritonEndpoint) -> tuple[bool, str]:
    """Return whether a server has the version READY, and its answers."""
    name, version = promotion.model_name, promotion.version
    index = [
        {"name": entry.name, "version": str(entry.version), "state": entry.state}
        for entry in endpoint.index(name)
    ]
    ready = endpoint.version_ready(name, version)
    lines = [
        f"GET {endpoint.url}/v2/models/{name}/versions/{version}/ready",
        "200" if ready else "not 200",
        "",
        f"POST {endpoint.url}/v2/repository/index",
        *(json.dumps(row, separators=(",", ":")) for row in index),
    ]
    return ready, "\n".join(lines)


def _gateway_evidence(
    statuses: Mapping[str, ModelStatus], model_name: str, gateway: GatewayResource
) -> str:
    parts: list[str] = []
    for replica, status in statuses.items():
        for path, answer in (
            (f"/models/{model_name}/health", _pretty(gateway.health(replica, model_name))),
            (f"/models/{model_name}", _pretty(status)),
            ("/metrics", gateway.metrics(replica)),
        ):
            parts += [f"GET {replica}{path}", answer, ""]
    return "\n".join(parts)


def _pretty(body: msgspec.Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def ask_gateway_again(
    spec: ModelSpec, promotion: Promotion, gateway: GatewayResource, mlflow: MlflowResource
) -> tuple[Parity, list[dict[str, str]]]:
    """Send the evaluation set to the gateway; return parity with scikit-learn and a few rows."""
    registered = mlflow.version(promotion.model_name, promotion.version)
    evaluation = mlflow.evaluation_set(registered.run_id)
    answers = ask_gateway(registered, evaluation, gateway)
    parity = compare_with(evaluation, answers, spec.gates.parity_tolerance)
    return parity, [*proof_rows(registered.signature, evaluation, answers[0])]


def _parity_table(parity: Parity, rows: Sequence[Mapping[str, str]]) -> str:
    lines = [
        f"{name}: {value}" for name, value in {**parity.metadata(), "holds": parity.holds}.items()
    ]
    lines += ["", "row  features -> gateway (scikit-learn)"]
    lines += [
        f"{row['row']:>3}  {row['features']} -> {row['gateway']} ({row['scikit-learn']})"
        for row in rows
    ]
    return "\n".join(lines)


def proof_rows(
    signature: Signature, evaluation: EvaluationSet, answered: NDArray[Any]
) -> Iterator[dict[str, str]]:
    """Yield a few rows with scikit-learn's answers and the gateway's: `answered`, shape (rows,)."""
    chosen = varied_rows(evaluation.labels, _SHOWN)
    request_rows = json_rows(signature, evaluation.features.iloc[chosen])
    is_short = [feature.dtype is DType.FP32 for feature in signature.features]
    for position, values in zip(chosen, request_rows, strict=True):
        row = [
            shortest_decimal(value) if short and value is not None else value
            for value, short in zip(values, is_short, strict=True)
        ]
        yield {
            "row": str(position),
            "features": str(row),
            "gateway": str(answered[position]),
            "scikit-learn": str(evaluation.labels[position]),
        }


def varied_rows(labels: NDArray[Any], count: int) -> list[int]:
    """Return `count` positions, ascending: the first ones that cover the most labels."""
    import pandas as pd

    column = pd.Series(labels)
    repetition = column.groupby(column, sort=False).cumcount().to_numpy()
    return sorted(np.argsort(repetition, kind="stable")[:count].tolist())
