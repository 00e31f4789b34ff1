"""The verdict of a parity check: its numbers, and the rows that differ, kept as an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from platform_assets.export.parity import compare_with, differing_frame
from platform_assets.export.runtime import ModelAnswers
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.records import EvaluationSet


def parity_check(
    name: str,
    run_id: str,
    evaluation: EvaluationSet,
    answers: ModelAnswers,
    *,
    tolerance: float,
    mlflow: MlflowResource,
    metadata: Mapping[str, Any] | None = None,
) -> dg.AssetCheckResult:
    """Compare answers with those of scikit-learn, as `parity.compare_with` does.

    The rows that differ are stored as `parity/<name>.parquet` in the evaluation set's MLflow run
    `run_id`; `metadata` is shown beside the numbers.
    """
    parity = compare_with(evaluation, answers, tolerance)
    shown = {**(metadata or {}), **parity.metadata()}
    if parity.holds:
        return dg.AssetCheckResult(passed=True, metadata=shown)
    artifact = f"parity/{name}.parquet"
    try:
        rows = differing_frame(parity, evaluation, *answers)
        mlflow.log_artifact_bytes(run_id, artifact, rows.to_parquet(index=False))
        shown["rows_kept"] = f"{artifact} of run {run_id}"
        shown["mlflow_run"] = dg.MetadataValue.url(mlflow.run_url(run_id))
    except RegistryError as error:
        shown["rows_kept"] = f"not kept: {error}"
    return dg.AssetCheckResult(
        passed=False,
        description=f"{len(parity.differing_rows)} or more of {parity.rows} rows are answered "
        "differently than by scikit-learn; production stays where it is",
        metadata=shown,
    )
