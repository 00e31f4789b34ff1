"""What the ledger keeps of a switch: who and why, the digests, and the gates' measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import dagster as dg
import msgspec

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.serving.ledger_entries import plain_metadata
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.switching import ConfirmedSwitch
from serving_gateway.contract import PROVENANCE_FILE, Switch


def switch_content(
    spec: ModelSpec,
    switched: ConfirmedSwitch,
    repository: ModelRepository,
    *,
    by: str,
    dagster_run: str,
    gates: Mapping[str, dg.AssetCheckEvaluation] | None = None,
) -> dict[str, Any]:
    """Return the content of the ledger entry of a switch that a run made."""
    answer = switched.answer
    return {
        "version": answer.version,
        "previous_version": answer.previous_version,
        "generation": answer.generation,
        "action": switched.action,
        "by": by or dagster_run,
        "reason": switched.reason,
        "changed": answer.changed,
        "run_id": answer.run_id,
        "dagster_run": dagster_run,
        "code_version": spec.code_version,
        "feature_contract": spec.contract,
        "package": package_digests(spec.model_name, answer.version, repository),
        "gates": {name: verdict_measurements(verdict) for name, verdict in (gates or {}).items()},
    }


def late_content(
    spec: ModelSpec, switch: Switch, repository: ModelRepository, *, action: str, by: str, gap: str
) -> dict[str, Any]:
    """Return the content of the ledger entry of a switch that is entered belatedly."""
    return {
        **{name: value for name, value in msgspec.to_builtins(switch).items() if name != "after"},
        "action": action,
        "by": by,
        "credential": switch.by,
        "reason": switch.reason or "",
        "changed": True,
        "missing": gap,
        "package": package_digests(spec.model_name, switch.version, repository),
    }


def package_digests(
    model_name: str, version: int, repository: ModelRepository
) -> dict[str, str | None]:
    """Return the digests of what the repository holds now, or why there are none."""
    try:
        packaged = repository.verify(model_name, version)
        provenance = (repository.path(model_name, version) / PROVENANCE_FILE).read_bytes()
    except (RepositoryError, OSError) as error:
        return {"problem": str(error)}
    return {
        "onnx_sha256": packaged.onnx_sha256,
        # Digest of the bytes: a later release may write the same record differently.
        "provenance_sha256": hashlib.sha256(provenance).hexdigest(),
        "data_fingerprint": packaged.data_fingerprint,
        "split": None if packaged.split is None else msgspec.json.encode(packaged.split).decode(),
        "packaged_by": packaged.packaged_by,
    }


def verdict_measurements(verdict: dg.AssetCheckEvaluation) -> dict[str, Any]:
    """Return the verdict of a gate with its measurements: numbers and short texts."""
    numbers = {
        name: value
        for name, value in plain_metadata(verdict.metadata).items()
        if isinstance(value, bool | int | float | str) and name != LOAD_ID
    }
    return {
        "passed": verdict.passed,
        "severity": verdict.severity.value,
        "description": verdict.description or "",
        "measured": numbers,
    }
