"""Tags of runs: which model they are of, how many go at a time, which go first, for how long."""

from __future__ import annotations

from typing import Final

MODEL_TAG: Final = "serving/model"
"""Tag of a run: the model that it is about."""
HEAVY: Final = "platform/heavy"
"""Tag of a run that holds a model's rows in memory: `dagster.yaml` says how many go at a time,
and that those with the same value follow each other."""
RECONCILIATION: Final = "platform/reconciliation"
"""Tag of a run that reconciles; counted apart, so that no training is in its way."""
_URGENT: Final = {"dagster/priority": "10", "dagster/max_runtime": "1800"}


def chain_tags(model_name: str) -> dict[str, str]:
    """Tags of a run that brings a version to production; those of a model follow each other."""
    return {MODEL_TAG: model_name, HEAVY: model_name}


def report_tags(model_name: str) -> dict[str, str]:
    """Tags of a run that reads as much as a training does, and changes nothing."""
    return {MODEL_TAG: model_name, HEAVY: f"{model_name} report"}


def scoring_tags(model_name: str) -> dict[str, str]:
    """Tags of a run that scores many rows, and changes nothing."""
    return {MODEL_TAG: model_name, HEAVY: f"{model_name} predictions"}


def urgent_tags(model_name: str) -> dict[str, str]:
    """Tags of a run that no other run keeps waiting, such as a rollback."""
    return {MODEL_TAG: model_name, **_URGENT}


def reconciliation_tags(model_name: str) -> dict[str, str]:
    """Tags of a run that only other reconciliations keep waiting."""
    return {MODEL_TAG: model_name, RECONCILIATION: model_name, **_URGENT}
