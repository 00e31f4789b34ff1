"""The runs that switch to a released version: one at a time, with few retries."""

from __future__ import annotations

import time
from typing import Final

import dagster as dg

from platform_assets.run_tags import MODEL_TAG

RELEASE_TAG: Final = "serving/release"
"""Tag of a run that switches: the release that reached go, or the first version's load."""
MAX_RUNS: Final = 3
_PAUSE_S: Final = 60


def request_promotion(
    model_name: str, purpose: str, instance: dg.DagsterInstance
) -> dg.RunRequest | str:
    """Return the run that switches for this purpose, or the reason not to run one now."""
    tags = {MODEL_TAG: model_name, RELEASE_TAG: purpose}
    records = instance.get_run_records(dg.RunsFilter(tags=tags), limit=MAX_RUNS)
    if records:
        newest = records[0]
        if not newest.dagster_run.is_finished:
            return f"run {newest.dagster_run.run_id} is switching"
        if len(records) >= MAX_RUNS:
            return (
                f"{MAX_RUNS} runs did not switch, the last one {newest.dagster_run.run_id}: read "
                f"its error, then launch {model_name}_promotion or stop the release"
            )
        if time.time() < (newest.end_time or 0) + _PAUSE_S:
            return f"run {newest.dagster_run.run_id} did not switch: next try after {_PAUSE_S} s"
    return dg.RunRequest(
        job_name=f"{model_name}_promotion",
        run_key=f"{model_name} {purpose} {len(records)}",
        tags=tags,
    )
