"""The records of a version in Dagster: materializations, verdicts of gates, releases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import dagster as dg

from platform_assets.passport.document import (
    CODE,
    DATA,
    DIGESTS,
    GATES,
    TRAINING,
    Act,
    VersionRecords,
)
from platform_assets.resources.events import evaluations, materializations
from platform_assets.serving import promotion
from platform_assets.serving.ledger_entries import anchors, plain_content, plain_metadata
from platform_assets.serving.switch_evidence import verdict_measurements

_RECORD_LIMIT: Final = 500
_HIDDEN: Final = frozenset({promotion.LOAD_ID, "mlflow_run", "mlflow_version", "origin"})


def collect_from_dagster(
    instance: dg.DagsterInstance, model_name: str, version: int
) -> VersionRecords:
    """Return Dagster's records of a version, and the anchors of the model's ledger."""
    from platform_assets.features.source import FINGERPRINT_METADATA

    def newest(asset: str, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        newest_first = _materializations(instance, model_name, asset)
        return next((metadata for _, metadata in newest_first if is_wanted(metadata)), {})

    def is_of_version(metadata: dict[str, Any]) -> bool:
        return metadata.get("version") == version

    records = VersionRecords()
    registered = newest("registered_model", is_of_version)
    origin = _origin(registered)
    run_id, fingerprint = origin.get("run_id"), origin.get("data_fingerprint")
    records.add(
        "Dagster, registered_model",
        {
            DATA: {"fingerprint": fingerprint},
            CODE: {"code_version": origin.get("code_version")},
            TRAINING: {
                "MLflow run": run_id,
                "Dagster run": origin.get("dagster_run_id"),
                "metric": registered.get("metric"),
            },
        },
    )
    if run_id:
        trained = newest(
            "trained_model", lambda metadata: _origin(metadata).get("run_id") == run_id
        )
        names = ("candidate", "training_rows", "evaluation_rows", "threshold")
        facts = {name: trained.get(name) for name in names}
        records.add("Dagster, trained_model", {TRAINING: facts})
    packaged = _origin(newest("triton_model_entry", is_of_version))
    digests = {"model.onnx": packaged.get("onnx_sha256")}
    records.add("Dagster, triton_model_entry", {DIGESTS: digests})
    if fingerprint:
        read = newest(
            "features", lambda metadata: metadata.get(FINGERPRINT_METADATA) == fingerprint
        )
        stored = {"rows": "dagster/row_count", "entities": "entities", "source": "source"}
        facts = {name: read.get(key) for name, key in stored.items()}
        records.add("Dagster, features", {DATA: facts})
    records.add("Dagster", {GATES: _gates(instance, model_name, version)})
    _add_release(records, instance, model_name, version)
    for asset in ("gateway_reload", "release"):
        for _, metadata in _materializations(instance, model_name, asset):
            records.anchors += anchors(metadata, f"Dagster's asset {asset}")
    if not records.facts.get(TRAINING):
        records.missing.append("Dagster has no records of this version (any more).")
    return records


def _materializations(
    instance: dg.DagsterInstance, model_name: str, asset: str
) -> list[tuple[datetime, dict[str, Any]]]:
    """Return times and metadata of the newest materializations, newest first."""
    records = materializations(instance, [model_name, asset], _RECORD_LIMIT)
    return [(record.at, plain_metadata(record.metadata)) for record in records]


def _origin(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata.get("origin") or {}


def _gates(instance: dg.DagsterInstance, model_name: str, version: int) -> dict[str, Any]:
    """Return the last verdict of each gate on this version."""
    verdicts = {}
    for gate in promotion.GATES:
        key = [model_name, "triton_serving_state"]
        for evaluation in evaluations(instance, key, gate, _RECORD_LIMIT):
            judged = evaluation.metadata.get("version")
            if judged is not None and judged.value == version:
                verdicts[gate] = plain_content(verdict_measurements(evaluation))
                break
    return verdicts


def _add_release(
    records: VersionRecords, instance: dg.DagsterInstance, model_name: str, version: int
) -> None:
    for time, metadata in reversed(_materializations(instance, model_name, "release")):
        if metadata.get("version") == version:
            at = time.isoformat(timespec="seconds")
            shown = {name: value for name, value in metadata.items() if name not in _HIDDEN}
            records.acts.append(Act(at, plain_content(shown), "Dagster, release"))
