"""Tags of runs: their model, concurrency, priority and time limit."""

from __future__ import annotations

from typing import Final

MODEL_TAG: Final = "serving/model"
"""Tag of a run: its model."""
HEAVY: Final = "platform/heavy"
"""Tag of a run that holds a model's rows in memory: `dagster.yaml` says how many run at a time,
and that those with the same value run one after the other."""
RECONCILIATION: Final = "platform/reconciliation"
"""Tag of a run that reconciles; counted separately, so that no training delays it."""
_URGENT: Final = {"dagster/priority": "10", "dagster/max_runtime": "1800"}


def chain_tags(model_name: str) -> dict[str, str]:
    """Return the tags of a run to production; runs of one model do not overlap."""
    return {MODEL_TAG: model_name, HEAVY: model_name}


def report_tags(model_name: str) -> dict[str, str]:
    """Return the tags of a run that reads as much as a training does, and changes nothing."""
    return {MODEL_TAG: model_name, HEAVY: f"{model_name} report"}


def scoring_tags(model_name: str) -> dict[str, str]:
    """Return the tags of a run that scores many rows, and changes nothing."""
    return {MODEL_TAG: model_name, HEAVY: f"{model_name} predictions"}


def urgent_tags(model_name: str) -> dict[str, str]:
    """Return the tags of a run that never waits for other runs, such as a rollback."""
    return {MODEL_TAG: model_name, **_URGENT}


def reconciliation_tags(model_name: str) -> dict[str, str]:
    """Return the tags of a run that only waits for other reconciliations."""
    return {MODEL_TAG: model_name, RECONCILIATION: model_name, **_URGENT}
