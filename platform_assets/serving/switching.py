"""The switch itself, as promotion and rollback share it: ask the gateway, wait for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import dagster as dg

from platform_assets.resources.failures import failure, may_pass
from platform_assets.resources.gateway import GatewayClientError, GatewayRefused, GatewayResource
from serving_gateway.contract import ReloadRequest, ReloadResponse, RollbackRequest

PRODUCTION: Final = "A"

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


def reload(
    model_name: str, request: ReloadRequest, gateway: GatewayResource, variant: str = PRODUCTION
) -> ReloadResponse:
    """Move a variant of the model to the version that `request` names.

    Raises:
        dagster.Failure: no gateway answers, or it refused; what was served is still served.
    """
    try:
        return gateway.reload(model_name, variant, request)
    except GatewayClientError as error:
        what = f"production was not confirmed on version {request.version}"
        raise _refused(what, model_name, error) from error


def roll_back(
    model_name: str, request: RollbackRequest, gateway: GatewayResource, variant: str
) -> ReloadResponse:
    """Move a variant back to the version that `request` names, and pin it there; fails alike."""
    try:
        return gateway.rollback(model_name, variant, request)
    except GatewayClientError as error:
        what = f"variant {variant} was not rolled back to version {request.version}"
        raise _refused(what, model_name, error) from error


def _refused(what: str, model_name: str, error: GatewayClientError) -> dg.Failure:
    todo = (
        f"look at GET /models/{model_name} of the gateway for what it serves, mend the cause it "
        "names, and run this again."
    )
    if isinstance(error, GatewayRefused) and error.code == "variant_pinned":
        todo = "launch gateway_reload with unpin: true in its configuration if the pin is over."
    return failure(f"{what}: {error}", todo, still_true=_EACH_SERVES, allow_retries=may_pass(error))


def wait_for_replicas(
    model_name: str,
    answer: ReloadResponse,
    gateway: GatewayResource,
    timeout_s: float,
    variant: str = PRODUCTION,
) -> tuple[str, ...]:
    """Wait until every replica confirmed the switch; return the ids of all live ones.

    Raises:
        dagster.Failure: some did not within `timeout_s` seconds.
    """
    try:
        convergence = gateway.wait_until_followed(model_name, variant, answer, timeout_s)
    except GatewayClientError as error:
        raise failure(
            f"the routing record names version {answer.version}, but not every replica could be "
            f"asked: {error}",
            "bring that replica back or take its address out of GATEWAY_URLS, then run this again.",
            still_true=_EACH_SERVES,
            allow_retries=may_pass(error),
        ) from error
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
