"""Give back to Triton exactly the versions that were verified."""

from collections.abc import Mapping

import dagster as dg

from platform_assets.resources.failures import failure
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.assets import SERVING_POOL
from platform_assets.serving.loading import persisted_versions, serve_exactly
from platform_assets.serving.policy import Drift, drift
from serving_gateway.contract import DEFAULT_MODEL


def observed_drift(
    model_name: str, triton: TritonResource, repository: ModelRepository
) -> Drift | None:
    """Compare Triton's live answer with the persisted policy; None when nothing was ever READY.

    Raises:
        TritonError: Triton does not answer.
    """
    verified = persisted_versions(repository, model_name)
    if not verified:
        return None
    return drift(verified, triton.ready_versions(model_name))


@dg.op(
    pool=SERVING_POOL,
    description="Loads the verified versions that Triton lost and unloads those it gained.",
)
def reconcile_serving(
    context: dg.OpExecutionContext, triton: TritonResource, model_repository: ModelRepository
) -> None:
    """Restore the persisted policy; look again first, since a run may have done it already."""
    try:
        found = observed_drift(DEFAULT_MODEL, triton, model_repository)
        if not found:
            context.log.info("Triton serves exactly the verified versions; nothing to do.")
            return
        ready = triton.ready_versions(DEFAULT_MODEL)
        verified = persisted_versions(model_repository, DEFAULT_MODEL)
        broken = model_repository.broken(DEFAULT_MODEL, verified)
        # A version that is READY serves from memory, whatever became of its files.
        wanted = [version for version in verified if version in ready or version not in broken]
        if not wanted:
            raise _cannot_give_back(broken, "nothing of the model")
        serve_exactly(DEFAULT_MODEL, wanted, triton=triton, repository=model_repository)
        for version in wanted:
            triton.wait_until_ready(DEFAULT_MODEL, version)
        left = observed_drift(DEFAULT_MODEL, triton, model_repository)
    except (TritonError, RepositoryError) as error:
        raise failure(
            f"Triton was not reconciled: {error}",
            "bring Triton back or mend the version that is named, then run the job again.",
            still_true="Whatever is READY in Triton goes on serving.",
            allow_retries=True,
        ) from error
    if left:
        raise failure(
            f"Triton still differs: lost {left.lost}, gained {left.gained}",
            "read Triton's log; somebody else may be loading versions.",
            still_true="Whatever is READY in Triton goes on serving.",
        )
    if broken:
        raise _cannot_give_back(broken, f"version {', '.join(map(str, wanted))}")
    context.log.info(f"Restored: lost {found.lost}, gained {found.gained}.")
    context.add_output_metadata(
        {"lost": str(found.lost), "gained": str(found.gained), "serving": str(wanted)}
    )


def _cannot_give_back(broken: Mapping[int, str], serving: str) -> dg.Failure:
    return failure(
        "these versions cannot be given back: "
        + "; ".join(f"{version}: {why}" for version, why in broken.items()),
        "roll production back, or run the chain to make a new version.",
        still_true=f"Triton serves {serving}.",
    )
