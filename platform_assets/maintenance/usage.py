"""What of a model is still in use, queried from everything that serves or records it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dagster as dg

from platform_assets.export.triton_config import ConfigError
from platform_assets.maintenance.selection import select_kept_versions
from platform_assets.model_spec import ASSETS, FeatureTableSpec, ModelSpec, SourceSpec
from platform_assets.resources.events import materializations
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_versions
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.ledger import MOST_SWITCHES, best_version, read_ledger
from platform_assets.serving.loading import persisted_versions
from serving_gateway.contract import DAGSTER_RUN_TAG

UNKNOWN: Final = (GatewayClientError, TritonError, RegistryError, RepositoryError, ConfigError)
"""Exceptions of `find_usage` if a server cannot say what is in use."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Clients of everything that knows what is in use."""

    gateway: GatewayResource
    triton: TritonResource
    repository: ModelRepository
    mlflow: MlflowResource


@dataclass(frozen=True, slots=True)
class Usage:
    """The records of one model that must stay."""

    mlflow_runs: frozenset[str]
    dagster_runs: frozenset[str]
    proofs: frozenset[str]
    """Dagster runs that promoted what is served now."""


def find_usage(spec: ModelSpec, servers: Servers, instance: dg.DagsterInstance, keep: int) -> Usage:
    """Return what must stay of a model.

    Raises:
        GatewayClientError, TritonError, RegistryError, RepositoryError, ConfigError: it is
            unknown what is in use, so nothing of the model may be deleted.
    """
    name, mlflow = spec.model_name, servers.mlflow
    served = {*routed_versions(servers.gateway.model_statuses(name))}
    served |= {*servers.triton.ready_anywhere(name)}
    served |= {*persisted_versions(servers.repository, name)}
    ledger = read_ledger(instance, spec, limit=MOST_SWITCHES)
    in_use = {
        *served,
        *servers.repository.versions(name),
        *mlflow.aliases(name).values(),
        *(version for entry in ledger for version in (entry.version, entry.previous_version)),
        best_version(instance, spec),
    }
    entries = mlflow.versions(name)
    versions = select_kept_versions(entries, in_use, keep)
    kept = [entry for entry in entries if entry.version in versions]
    made = materializations(instance, spec.key("gateway_reload"), MOST_SWITCHES)
    switches = {one.run_id: int(one.metadata["version"]) for one in made}  # "" stands for no run
    return Usage(
        mlflow_runs=frozenset(entry.run_id for entry in kept),
        dagster_runs=frozenset(switches)
        | _newest_runs(spec, ASSETS, instance)
        | {entry.tags.get(DAGSTER_RUN_TAG, "") for entry in kept},
        proofs=frozenset(run_id for run_id, version in switches.items() if version in served),
    )


def table_usage(table: FeatureTableSpec, instance: dg.DagsterInstance) -> Usage:
    """Return what must stay of a feature table: the runs that made what is there."""
    runs = _newest_runs(table, ("features", "online_features"), instance)
    return Usage(mlflow_runs=frozenset(), dagster_runs=runs, proofs=frozenset())


def _newest_runs(
    spec: SourceSpec, assets: Iterable[str], instance: dg.DagsterInstance
) -> frozenset[str]:
    keys = [dg.AssetKey(spec.key(asset)) for asset in assets]
    newest = instance.get_latest_materialization_events(keys).values()
    return frozenset(event.run_id for event in newest if event is not None)
