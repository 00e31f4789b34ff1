"""Rollback as a job: instant to a version that is READY, after a load to a retired one."""

from collections.abc import Sequence
from typing import Final

import dagster as dg
from pydantic import Field

from platform_assets.export.triton_config import ConfigError
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_version
from platform_assets.resources.metadata import join_versions
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.run_tags import urgent_tags
from platform_assets.serving.ledger import (
    MOST_SWITCHES,
    ROLLBACK,
    read_ledger,
    switch_metadata,
    switch_reason,
)
from platform_assets.serving.ledger_entries import LedgerWriter, head_tags
from platform_assets.serving.loading import persisted_versions, serve_exactly
from platform_assets.serving.promotion import record_in_registry
from platform_assets.serving.switch_evidence import switch_content
from platform_assets.serving.switching import (
    PRODUCTION,
    ConfirmedSwitch,
    roll_back,
    wait_for_replicas,
)
from platform_assets.serving.turns import CHANGE, acquire_turn
from serving_gateway.contract import VARIANTS, ModelStatus, RollbackRequest

TARGET_TAG: Final = "serving/rollback_target"
"""Tag of a run: its id and the version that it rolls back to."""


class RollbackConfig(dg.Config):
    """Where to go back to, and who wants it why."""

    variant: str = Field(default=PRODUCTION, description="A is production, B the candidate.")
    version: int = Field(
        default=0, ge=0, description="Version to go back to; 0 takes the previous one."
    )
    reason: str = Field(default="", description="Why, for the routing record and the ledger.")
    by: str = Field(default="", description="Who asks for the rollback, for the ledger.")
    convergence_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that every replica has to follow the switch."
    )


def rollback_job(spec: ModelSpec) -> dg.JobDefinition:
    """Build the job that moves a variant of a model back, and pins it there."""

    @dg.op(
        name=f"roll_back_{spec.model_name}",
        description="Moves the variant back on every gateway replica; the version is pinned.",
    )
    def rollback(
        context: dg.OpExecutionContext,
        config: RollbackConfig,
        triton: TritonResource,
        model_repository: ModelRepository,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        ledger: LedgerFolder,
    ) -> None:
        acquire_turn(CHANGE, spec.model_name, context)
        target = _retried_target(context) or target_version(spec, config, gateway, context.instance)
        # Before any change: afterwards "the version before the present one" is a different one.
        context.instance.add_run_tags(
            context.run.run_id, {TARGET_TAG: f"{context.run.run_id} {target}"}
        )
        _make_ready(spec.model_name, target, triton, model_repository, context)
        why = switch_reason(ROLLBACK, context.run.run_id, wanted_by=config.by, why=config.reason)
        request = RollbackRequest(version=target, reason=why)
        answer = roll_back(spec.model_name, request, gateway, config.variant)
        live = wait_for_replicas(
            spec.model_name, answer, gateway, config.convergence_timeout_s, config.variant
        )
        context.log.info(f"{config.variant} is on version {answer.version} on {len(live)} replicas")
        if config.variant != PRODUCTION:
            return
        switched = ConfirmedSwitch(answer, live, ROLLBACK, why)
        content = switch_content(
            spec, switched, model_repository, by=config.by, dagster_run=context.run.run_id
        )
        entered = LedgerWriter(spec, ledger, context.instance).enter_switch(content)
        record = record_in_registry(
            spec.model_name, answer.version, mlflow, context.log, head_tags(entered)
        )
        more = {"by": config.by, **record, **entered}
        context.log_event(
            dg.AssetMaterialization(
                dg.AssetKey(spec.key("gateway_reload")),
                description=why,
                metadata=switch_metadata(spec, switched, mlflow, more=more),
            )
        )

    @dg.job(
        name=f"{spec.model_name}_rollback",
        tags=urgent_tags(spec.model_name),
        description=(
            f"Moves {spec.model_name} back to its previous version, or to a named one, "
            "and pins it there. A retired version is loaded from the repository first."
        ),
    )
    def job() -> None:
        rollback()

    return job


def _retried_target(context: dg.OpExecutionContext) -> int | None:
    """Return the version that the retried attempt was rolling back to; None if not a retry."""
    run = context.instance.get_run_by_id(context.run.run_id)
    while run is not None and not run.is_success:
        # Runs inherit tags: only a tag with the run's own id counts.
        by, _, version = run.tags.get(TARGET_TAG, "").partition(" ")
        if by == run.run_id:
            return int(version)
        parent = run.parent_run_id
        run = None if parent is None else context.instance.get_run_by_id(parent)
    return None


def target_version(
    spec: ModelSpec, config: RollbackConfig, gateway: GatewayResource, instance: dg.DagsterInstance
) -> int:
    """Return the version to roll back to: the one named, or the one before the present one.

    Raises:
        dagster.Failure: there is none, it was never in production, or no gateway answers.
    """
    if config.variant not in VARIANTS:
        raise failure(
            f"there is no variant {config.variant!r}",
            f"name one of {', '.join(VARIANTS)}.",
        )
    try:
        statuses = gateway.model_statuses(spec.model_name)
    except GatewayClientError as error:
        raise failure(
            f"nothing was rolled back: {error}", "bring the gateway back, then run this again."
        ) from error
    if config.version:
        if config.variant == PRODUCTION:
            _require_known_in_production(spec, config.version, statuses, instance)
        return config.version
    # A replica that lags behind would roll back one version too far.
    newest = max(statuses, key=lambda status: status.routing.generation)
    present = routed_version(newest, config.variant)
    for slot in newest.routing.previous.get(config.variant, ()):
        if slot.version != present:
            return slot.version
    raise failure(
        f"variant {config.variant} of {spec.model_name} has no earlier version",
        "name the version to go back to.",
    )


def _require_known_in_production(
    spec: ModelSpec, version: int, statuses: Sequence[ModelStatus], instance: dg.DagsterInstance
) -> None:
    """Refuse a version that was never in production: a rollback must not bypass the gates."""
    proven = {entry.version for entry in read_ledger(instance, spec, limit=MOST_SWITCHES)}
    for status in statuses:
        proven |= {slot.version for slot in status.routing.previous.get(PRODUCTION, ())}
        present = routed_version(status, PRODUCTION)
        proven |= set() if present is None else {present}
    if version not in proven:
        known = join_versions(sorted(proven))
        raise failure(
            f"nothing was rolled back: version {version} of {spec.model_name} never was in "
            f"production, where these were: {known}",
            "name another version; one that is new gets there through its gates, by the chain.",
        )


def _make_ready(
    name: str,
    version: int,
    triton: TritonResource,
    repository: ModelRepository,
    context: dg.OpExecutionContext,
) -> None:
    with as_failure(
        f"nothing was rolled back: version {version} of {name} cannot be served",
        "name another version, or run the chain to make a new one.",
        *(TritonError, RepositoryError, ConfigError),
    ):
        # READY is not enough: a version that no policy names does not survive Triton's restart.
        if version in triton.ready_versions(name) and version in persisted_versions(
            repository, name
        ):
            context.log.info(f"version {version} is READY: the switch is instant")
            return
        context.log.info(f"version {version} is loaded from the repository")
        repository.verify(name, version)
        present = triton.ready_anywhere(name)
        serve_exactly(name, [*present, version], triton=triton, repository=repository)
        triton.wait_until_ready(name, version)
