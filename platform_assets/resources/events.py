"""Dagster's records of assets and checks, newest first, with metadata as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dagster as dg


class MaterializationRecord(NamedTuple):
    """A materialization of an asset."""

    at: datetime
    """When it was recorded, in UTC."""
    run_id: str
    """Id of the Dagster run; empty if it was recorded without one."""
    partition: str | None
    metadata: dict[str, Any]


def materializations(
    instance: dg.DagsterInstance, key: Sequence[str], limit: int
) -> list[MaterializationRecord]:
    """Return the newest materializations of an asset."""
    records = instance.fetch_materializations(dg.AssetKey(key), limit=limit).records
    return [
        MaterializationRecord(
            datetime.fromtimestamp(record.timestamp, UTC),
            record.run_id or "",
            record.partition_key,
            {name: value.value for name, value in materialization.metadata.items()},
        )
        for record in records
        if (materialization := record.asset_materialization) is not None
    ]


def evaluations(
    instance: dg.DagsterInstance, key: Sequence[str], check: str, limit: int
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the newest verdicts of a check on an asset."""
    history = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(key), check), limit=limit
    )
    for record in history:
        # A run that is only queued has a record without a verdict.
        verdict = record.event.asset_check_evaluation if record.event else None
        if verdict is not None:
            yield verdict
