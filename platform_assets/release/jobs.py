"""The manual decisions about a release, as jobs: approve a step that waits, or stop it."""

# No postponed annotations here: Dagster reads them.
from typing import Final, Literal

import dagster as dg
from pydantic import Field

from platform_assets.model_spec import ModelSpec
from platform_assets.release.record import describe_place
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.gateway import STOP_PENDING, GatewayClientError, GatewayResource
from platform_assets.run_tags import urgent_tags
from serving_gateway.contract import ReleaseDecision

_LOOK: Final = "look at the asset release, or at the page of the gateway, for what it waits for"


class PersonalDecision(dg.Config):
    """Who decides, and why; both are kept in the routing record."""

    name: str = Field(description="Your name.")
    reason: str = Field(description="Why.")
    release_id: str = Field(
        default="", description="Only this release; by default the present one."
    )


def decision_jobs(spec: ModelSpec) -> list[dg.JobDefinition]:
    """Build the jobs by which a person approves a waiting release, or stops it."""
    name = spec.model_name
    approve = f"Approves what the release of {name} waits for. It does not wait for other runs."
    stop = (
        f"Stops the release of {name}: variant A answers all clients. After the switch, while the "
        "new version is watched, it rolls production back and pins it."
    )
    return [
        _decision_job(spec, f"{name}_approve", f"{name}__approve_release", "approved", approve),
        _decision_job(spec, f"{name}_stop_release", f"{name}__stop_release", "stopped", stop),
    ]


def _decision_job(
    spec: ModelSpec, name: str, op: str, outcome: Literal["approved", "stopped"], description: str
) -> dg.JobDefinition:
    @dg.op(name=op)
    def decision(
        context: dg.OpExecutionContext, config: PersonalDecision, gateway: GatewayResource
    ) -> None:
        decide = gateway.approve_release if outcome == "approved" else gateway.stop_release
        with as_failure(f"the release was not {outcome}", _LOOK, GatewayClientError):
            answer = decide(spec.model_name, _decision(config, f"{outcome} by"))
        pending = ", as soon as the store can be written" if answer.status == STOP_PENDING else ""
        place = describe_place(answer.release)
        context.log.info(f"version {answer.release.version}: {place}{pending}")

    @dg.job(name=name, tags=urgent_tags(spec.model_name), description=description)
    def job() -> None:
        decision()

    return job


def _decision(config: PersonalDecision, what: str) -> ReleaseDecision:
    # The gateway only knows the pipeline's token, so the person's name goes into the reason.
    name, reason = config.name.strip(), config.reason.strip()
    if not name or not reason:
        raise failure(
            "nothing was decided: a name and a reason are needed",
            "give both in the configuration of the run",
        )
    return ReleaseDecision(f"{what} {name}: {reason}", config.release_id or None)
