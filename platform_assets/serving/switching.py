"""The switch itself, shared by promotion and rollback: ask one gateway, wait for all replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, VariantPinned
from serving_gateway.contract import ReloadRequest, ReloadResponse, RollbackRequest

PRODUCTION: Final = "A"

_LOOK: Final = (
    "look at GET /models/{} of the gateway for what it serves, mend the cause it names, and run "
    "this again."
)
_EACH_SERVES: Final = "Each gateway that runs goes on serving what it confirmed last."


@dataclass(frozen=True, slots=True)
class ConfirmedSwitch:
    """A switch that was carried out and confirmed."""

    answer: ReloadResponse
    replicas: tuple[str, ...]
    """Ids of all live replicas, each of which confirmed it."""
    action: str
    """`promotion` or `rollback`."""
    reason: str


def reload(model_name: str, request: ReloadRequest, gateway: GatewayResource) -> ReloadResponse:
    """Move production of the model to the version that `request` names.

    Raises:
        dagster.Failure: no gateway answers, or it refused; serving is unchanged.
    """
    what = f"production was not confirmed on version {request.version}"
    unpin = "launch gateway_reload with unpin: true in its configuration if the pin is over."
    with (
        as_failure(what, _LOOK.format(model_name), GatewayClientError, still_true=_EACH_SERVES),
        as_failure(what, unpin, VariantPinned, still_true=_EACH_SERVES),
    ):
        return gateway.reload(model_name, PRODUCTION, request)


def roll_back(
    model_name: str, request: RollbackRequest, gateway: GatewayResource, variant: str
) -> ReloadResponse:
    """Roll a variant back to the version that `request` names and pin it; fails as `reload`."""
    what = f"variant {variant} was not rolled back to version {request.version}"
    with as_failure(what, _LOOK.format(model_name), GatewayClientError, still_true=_EACH_SERVES):
        return gateway.rollback(model_name, variant, request)


def wait_for_replicas(
    model_name: str,
    answer: ReloadResponse,
    gateway: GatewayResource,
    timeout_s: float,
    variant: str = PRODUCTION,
) -> tuple[str, ...]:
    """Wait until every replica has confirmed the switch; return the ids of all live ones.

    Raises:
        dagster.Failure: some replica did not within `timeout_s` seconds.
    """
    with as_failure(
        f"the routing record names version {answer.version}, but not every replica could be asked",
        "bring that replica back or take its address out of GATEWAY_URLS, then run this again.",
        GatewayClientError,
        still_true=_EACH_SERVES,
    ):
        convergence = gateway.wait_until_converged(model_name, variant, answer, timeout_s)
    if convergence.behind:
        raise failure(
            f"the routing record names version {answer.version}, but after {timeout_s:.0f} s "
            "these replicas did not confirm it: "
            + ", ".join(
                f"{replica} ({how})" for replica, how in sorted(convergence.behind.items())
            ),
            f"look at /models/{model_name}/ready of those replicas; run this again when they "
            "follow.",
            still_true="A replica that cannot confirm its version answers 503 for this model; the "
            "others serve it.",
            allow_retries=True,
        )
    return convergence.live
