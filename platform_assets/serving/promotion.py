"""The parts of a switch: its preconditions, and what follows it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import dagster as dg

from platform_assets.export.triton_config import ConfigError
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.events import evaluations
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_versions
from platform_assets.resources.metadata import join_versions
from platform_assets.resources.mlflow import PRODUCTION_ALIAS, MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.ledger import Entry
from platform_assets.serving.loading import persisted_versions, retire
from platform_assets.serving.policy import versions_to_delete, versions_to_keep
from platform_assets.serving.records import GateVerdict, ServingState
from platform_assets.serving.switching import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    Metadata = Mapping[str, dg.MetadataValue | str | int]

NO_REGRESSION: Final = "no_regression"
GATES: Final = (
    "triton_ready",
    "triton_parity",
    "triton_latency",
    NO_REGRESSION,
    "schema_compatible",
    "feature_contract",
    "replay",
)
"""Blocking checks of the serving state without which no version reaches production."""
STATUS_TAG: Final = "serving.status"
"""Tag of a version in MLflow: what became of it, for people to read."""
COMPARISON: Final = "comparison"
"""Metadata key of `no_regression`: the picture of the candidate against production."""
OWN_METRIC: Final = "as_served"
"""Likewise: the candidate's own metric beside its floor, in words."""
LOAD_ID: Final = "load_id"
"""Metadata key under which a gate records which load it judged."""

_HISTORY: Final = 100


def require_ready(state: ServingState, triton: TritonResource) -> None:
    """Require that Triton has the version READY now: a blocking check stops only its own run.

    Raises:
        dagster.Failure: it is not, or Triton does not answer.
    """
    name, version = state.model_name, state.version
    with as_failure(
        f"production was not switched to version {version}, since Triton cannot be asked",
        "bring Triton back (`make status` tells), then materialize gateway_reload again.",
        TritonError,
    ):
        ready = version in triton.ready_versions(name) and triton.version_ready(name, version)
    if not ready:
        reason = f" ({state.reason})" if state.reason else ""
        raise failure(
            f"production was not switched: Triton does not report version {version} of {name} "
            f"READY now{reason}",
            "materialize triton_serving_state to load it, or train a version that loads.",
        )


def require_gates_passed(
    state: ServingState, instance: dg.DagsterInstance
) -> dict[str, dg.AssetCheckEvaluation]:
    """Return each gate's verdict on a load, from any run.

    Raises:
        dagster.Failure: one of these blocking checks failed or never judged the load.
    """
    verdicts = {gate: _evaluation(state, gate, instance) for gate in GATES}
    open_gates = {
        gate: "did not run on this load" if evaluation is None else "failed"
        for gate, evaluation in verdicts.items()
        if evaluation is None
        or (not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR)
    }
    if open_gates:
        raise failure(
            "production was not switched: the loaded version has not passed its gates ("
            + ", ".join(f"{name}: {why}" for name, why in sorted(open_gates.items()))
            + ")",
            "materialize triton_serving_state with its checks, and read their results.",
        )
    return {gate: verdict for gate, verdict in verdicts.items() if verdict is not None}


def _evaluation(
    state: ServingState, gate: str, instance: dg.DagsterInstance
) -> dg.AssetCheckEvaluation | None:
    # Not simply the newest verdict: it may be on another load.
    key = [state.model_name, "triton_serving_state"]
    for evaluation in evaluations(instance, key, gate, _HISTORY):
        judged = evaluation.metadata.get(LOAD_ID)
        if judged is not None and judged.value == state.load_id:
            return evaluation
    return None


def gate_verdict(evaluation: dg.AssetCheckEvaluation) -> GateVerdict:
    """Return the verdict of `no_regression` for display."""
    plain = {name: value.value for name, value in evaluation.metadata.items()}
    parts, description = [str(plain[OWN_METRIC])], evaluation.description or ""
    if (production := plain.get("production_version")) is not None:
        value = plain.get(f"production_{plain['metric']}")
        comparison = "the same graph" if value is None else f"{value:.4g}"
        parts.append(f"version {production}, in production before: {comparison}")
    if "gain" in plain:
        parts.append(f"gain {plain['gain']:+.4g}: {plain['verdict']}")
    picture = str(plain.get(COMPARISON, "")).partition("(")[2].removesuffix(")")
    return GateVerdict("; ".join(parts), description, picture)


def retire_surplus(
    spec: ModelSpec,
    production: int,
    *,
    retention: int,
    waiting: Collection[int],
    ledger: Sequence[Entry],
    best: int | None,
    gateway: GatewayResource,
    triton: TritonResource,
    repository: ModelRepository,
    log: logging.Logger,
) -> Metadata:
    """Unload what is beyond retention, delete what is beyond `keep_versions`.

    `waiting` was loaded since, and stays for its release; the `best` version stays to be compared
    with. Returns metadata that says which
    versions were kept, retired and deleted. A failure in here leaves more than was wanted, never
    less.
    """
    name = spec.model_name
    try:
        statuses = gateway.model_statuses(name)
        previous = [
            slot.version
            for status in statuses
            for slot in status.routing.previous.get(PRODUCTION, ())
        ]
        routed = routed_versions(statuses)
        keep = versions_to_keep(
            production=production,
            routed=routed,
            previous=previous,
            # Anywhere: a server that lags for a moment must not make the others lose versions.
            ready=triton.ready_anywhere(name),
            retention=retention,
            waiting=waiting,
        )
        retired = retire(name, keep, triton=triton, repository=repository)
        doomed = versions_to_delete(
            on_disk=repository.versions(name),
            ready=triton.ready_anywhere(name),
            routed=(production, *routed, *persisted_versions(repository, name)),
            ledger=[entry.version for entry in ledger],
            keep=spec.serving.keep_versions,
            best=best,
        )
        for version in doomed:
            repository.delete(name, version)
    except (GatewayClientError, TritonError, RepositoryError, ConfigError, OSError) as error:
        log.warning("The switch stands, but retiring stopped: %s", error)
        return {"retired": f"stopped: {error}"}
    return {
        "kept_ready": join_versions(keep),
        "retired": join_versions(retired),
        "deleted": join_versions(doomed),
    }


def record_in_registry(
    model_name: str,
    version: int,
    mlflow: MlflowResource,
    log: logging.Logger,
    tags: Mapping[str, str] | None = None,
) -> Metadata:
    """Record the switch in MLflow, with further tags; a failure leaves the switch as it is."""
    try:
        before = mlflow.alias_version(model_name, PRODUCTION_ALIAS)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if before not in (None, version):
            mlflow.set_version_tags(
                model_name, before, {STATUS_TAG: f"was in production, to {now}"}
            )
        present = {STATUS_TAG: f"in production since {now}", **(tags or {})}
        mlflow.set_version_tags(model_name, version, present)
        # Last: until the alias has moved, a retried run still knows whose tag to change.
        mlflow.set_alias(model_name, PRODUCTION_ALIAS, version)
    except RegistryError as error:
        log.warning("The switch stands, but it was not recorded in MLflow: %s", error)
        return {"registry": f"not recorded: {error}"}
    return {"registry": f"alias {PRODUCTION_ALIAS} -> {version}"}


def delete_unread_views(
    spec: ModelSpec,
    *,
    feast: FeastResource,
    mlflow: MlflowResource,
    triton: TritonResource,
    repository: ModelRepository,
    log: logging.Logger,
) -> Metadata:
    """Delete the model's views except those of versions that are READY or kept on disk.

    Returns metadata that names them. If it is unknown what one of these versions reads, all
    views stay.
    """
    name = spec.model_name
    try:
        unread = {*feast.services(name)} - {spec.feature_service}
        if unread:
            versions = {*repository.versions(name), *triton.ready_anywhere(name)}
            unread -= {
                mlflow.version(name, version).signature.feature_service for version in versions
            }
        for view in sorted(unread):
            feast.delete_service(view)
    except (FeatureStoreError, RegistryError, TritonError, OSError) as error:
        log.warning("The switch stands, but feature views were not deleted: %s", error)
        return {"deleted_feature_views": f"stopped: {error}"}
    return {"deleted_feature_views": ", ".join(sorted(unread)) or "none"}
