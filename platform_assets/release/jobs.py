"""What people decide about a release, as jobs: approve what it waits for, and stop it."""

# No postponed annotations here: Dagster reads them.
from typing import Final

import dagster as dg
from pydantic import Field

from platform_assets.model_spec import ModelSpec
from platform_assets.release.record import describe_place
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.gateway import STOP_PENDING, GatewayClientError, GatewayResource
from platform_assets.run_tags import rollback_tags
from serving_gateway.contract import ReleaseDecision

_LOOK: Final = "look at the asset release, or at the page of the gateway, for what it waits for"


class PersonalDecision(dg.Config):
    """Who decides, and why; both are kept in the routing record."""

    name: str = Field(description="Your name.")
    reason: str = Field(description="Why.")
    release_id: str = Field(
        default="", description="Only this release; by default the present one."
    )


def approve_job(spec: ModelSpec) -> dg.JobDefinition:
    """Build the job by which a person approves what a release waits for."""

    @dg.op(name=f"{spec.model_name}__approve_release")
    def approve(
        context: dg.OpExecutionContext, config: PersonalDecision, gateway: GatewayResource
    ) -> None:
        with as_failure("the release was not approved", _LOOK, GatewayClientError):
            done = gateway.approve_release(spec.model_name, _decision(config, "approved by"))
        context.log.info(f"version {done.release.version}: {describe_place(done.release)}")

    @dg.job(
        name=f"{spec.model_name}_approve",
        tags=rollback_tags(spec.model_name),
        description=f"Approves what the release of {spec.model_name} waits for. It does not wait "
        "for other runs.",
    )
    def job() -> None:
        approve()

    return job


def stop_job(spec: ModelSpec) -> dg.JobDefinition:
    """Build the job by which a person stops a release."""

    @dg.op(name=f"{spec.model_name}__stop_release")
    def stop(
        context: dg.OpExecutionContext, config: PersonalDecision, gateway: GatewayResource
    ) -> None:
        with as_failure("the release was not stopped", _LOOK, GatewayClientError):
            done = gateway.stop_release(spec.model_name, _decision(config, "stopped by"))
        pending = ", as soon as the store can be written" if done.status == STOP_PENDING else ""
        place = describe_place(done.release)
        context.log.info(f"version {done.release.version}: {place}{pending}")

    @dg.job(
        name=f"{spec.model_name}_stop_release",
        tags=rollback_tags(spec.model_name),
        description=f"Stops the release of {spec.model_name}: variant A answers all clients. After "
        "the switch, while the new version is watched, it rolls production back and pins it.",
    )
    def job() -> None:
        stop()

    return job


def _decision(config: PersonalDecision, what: str) -> ReleaseDecision:
    # The gateway knows the pipeline's token alone: the person's name is part of the reason.
    name, reason = config.name.strip(), config.reason.strip()
    if not name or not reason:
        raise failure(
            "nothing was decided: a name and a reason are needed",
            "give both in the configuration of the run",
        )
    return ReleaseDecision(f"{what} {name}: {reason}", config.release_id or None)
