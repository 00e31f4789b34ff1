"""What a model learns from now: its own source, and its feature tables as last read."""

from __future__ import annotations

import dagster as dg

from platform_assets.features.records import data_fingerprint
from platform_assets.features.source import FINGERPRINT_METADATA
from platform_assets.model_spec import FeatureTableSpec, ModelSpec, table_job_name
from platform_assets.resources.events import materializations


class TableNotReadError(Exception):
    """A feature table of the model was never materialized; the message says what to run."""


def current_content(
    spec: ModelSpec | FeatureTableSpec, own: str, instance: dg.DagsterInstance
) -> str:
    """Return the fingerprint of all that is learned from, given the own source's.

    Raises:
        TableNotReadError: one of the tables was never read.
    """
    tables = spec.tables if isinstance(spec, ModelSpec) else ()
    return data_fingerprint(own, [_read_content(table, instance) for table in tables])


def _read_content(table: FeatureTableSpec, instance: dg.DagsterInstance) -> str:
    newest = materializations(instance, table.key("online_features"), limit=1)
    fingerprint = newest[0].metadata.get(FINGERPRINT_METADATA) if newest else None
    if fingerprint is None:
        raise TableNotReadError(
            f"the feature table {table.name} was never read: run {table_job_name(table.name)}"
        )
    return str(fingerprint)
