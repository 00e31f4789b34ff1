"""Restore exactly the verified versions in Triton."""

from collections.abc import Collection, Mapping

import dagster as dg

from platform_assets.export.triton_config import ConfigError, load_override, with_versions
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_versions
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonEndpoint, TritonError, TritonResource
from platform_assets.run_tags import reconciliation_tags
from platform_assets.serving.loading import Log, persist, persisted_config, persisted_versions
from platform_assets.serving.policy import Drift, drift
from platform_assets.serving.turns import CHANGE, acquire_turn

_STILL_SERVED = "Versions that are READY in Triton keep serving."


def observed_drift(
    model_name: str,
    triton: TritonResource,
    repository: ModelRepository,
    routed: Collection[int] | None = (),
) -> Drift | None:
    """Compare Triton's live state with the persisted policy; None when nothing was ever READY.

    Of several servers: what any of them lost, and what any of them gained. `routed` are the
    versions that gateways route to, as of `versions_in_use`.

    Raises:
        TritonError: Triton does not answer.
    """
    verified = persisted_versions(repository, model_name)
    if not verified:
        return None
    found = triton.everywhere(lambda one: drift(verified, one.ready_versions(model_name), routed))
    return Drift.union(found)


def versions_in_use(model_name: str, gateway: GatewayResource) -> Collection[int] | None:
    """Return the versions that gateways route to; None while not every gateway says so."""
    try:
        return routed_versions(gateway.model_statuses(model_name))
    except GatewayClientError:
        return None


def reconcile_job(spec: ModelSpec) -> dg.JobDefinition:
    """Build the job that makes Triton serve exactly the verified versions of a model."""

    @dg.op(
        # No job of a model ends in this suffix: a model named `reconcile` would clash with it.
        name=f"{spec.model_name}__restore",
        description="Loads the verified versions that Triton lost and unloads those it gained, "
        "unless a gateway routes to them.",
    )
    def reconcile(
        context: dg.OpExecutionContext,
        triton: TritonResource,
        model_repository: ModelRepository,
        gateway: GatewayResource,
    ) -> None:
        name = spec.model_name
        acquire_turn(CHANGE, name, context)
        routed = versions_in_use(name, gateway)
        found = restore(name, triton, model_repository, context.log.info, routed)
        if found:
            context.add_output_metadata({"lost": str(found.lost), "gained": str(found.gained)})

    @dg.job(
        name=f"{spec.model_name}_reconcile",
        tags=reconciliation_tags(spec.model_name),
        description=f"Makes Triton serve exactly the verified versions of {spec.model_name}.",
    )
    def job() -> None:
        reconcile()

    return job


def restore(
    name: str,
    triton: TritonResource,
    repository: ModelRepository,
    log: Log,
    routed: Collection[int] | None = (),
) -> Drift | None:
    """Restore the persisted policy, and return what differed; `routed` as of `observed_drift`.

    It checks for drift first, since another run may have restored it already.

    Raises:
        dagster.Failure: Triton does not answer, still differs, or a version cannot be restored.
    """
    with as_failure(
        "Triton was not reconciled",
        "bring Triton back or repair the version that is named, then run the job again.",
        *(TritonError, RepositoryError, ConfigError),
        still_true=_STILL_SERVED,
    ):
        found = observed_drift(name, triton, repository, routed)
        if not found:
            log("Triton serves exactly the verified versions; nothing to do.")
            return None
        verified = persisted_versions(repository, name)
        broken = repository.broken(name, verified)
        serving = persisted_config(repository, name)

        def load_verified(endpoint: TritonEndpoint) -> tuple[int, ...]:
            ready = endpoint.ready_versions(name)
            # A READY version serves from memory even when its files are damaged.
            versions = [number for number in verified if number in ready or number not in broken]
            if not versions:
                raise _restore_failure(broken, "nothing of the model")
            difference = drift(versions, ready, routed)
            if difference:
                kept = {*versions, *ready} - {*difference.gained}
                endpoint.load(name, load_override(with_versions(serving, kept)))
            for version in versions:
                endpoint.wait_until_ready(name, version)
            return tuple(versions)

        loaded = triton.everywhere(load_verified)
        wanted = sorted({version for versions in loaded for version in versions})
        persist(repository, with_versions(serving, wanted))
        left = observed_drift(name, triton, repository, routed)
    if left:
        raise failure(
            f"Triton still differs: lost {left.lost}, gained {left.gained}",
            "read Triton's log; another client may be loading versions.",
            still_true=_STILL_SERVED,
        )
    if broken:
        raise _restore_failure(broken, f"version {', '.join(map(str, wanted))}")
    log(f"Restored: lost {found.lost}, gained {found.gained}.")
    return found


def _restore_failure(broken: Mapping[int, str], serving: str) -> dg.Failure:
    return failure(
        "these versions cannot be restored: "
        + "; ".join(f"{version}: {why}" for version, why in broken.items()),
        "roll production back, or run the chain to make a new version.",
        still_true=f"Triton serves {serving}.",
    )
