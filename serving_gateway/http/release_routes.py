"""The routes of a model's release: its report, and its changes."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Body, Depends, Response

from serving_gateway.contract import (
    ReleaseAdvance,
    ReleaseDecision,
    ReleasePlan,
    ReleaseReport,
    ReleaseRequest,
    ReleaseResponse,
)
from serving_gateway.control.hosting import Hosting
from serving_gateway.http.routes import Caller


class KnownPlan(ReleasePlan, frozen=True, forbid_unknown_fields=True):
    """A plan of which this gateway knows all fields.

    One that it would leave out may be the guardrail that the caller relies on. A plan in a routing
    record, however, may be of a later release.
    """


class BeginRequest(ReleaseRequest, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /release`."""

    plan: KnownPlan


def add_release_report(
    router: APIRouter, hosting: Hosting, name_of: Callable[..., Awaitable[str]]
) -> None:
    """Add the route that reads a release."""

    @router.get("/release")
    async def release(model: Annotated[str, Depends(name_of)]) -> ReleaseReport:
        """Read the present release, or the last one.

        With what all replicas counted of it, and what that shows of each guardrail.
        """
        return await hosting.find(model).release_report.report()


def add_release_changes(
    router: APIRouter, hosting: Hosting, name_of: Callable[..., Awaitable[str]]
) -> None:
    """Add the routes that change a release."""
    Model = Annotated[str, Depends(name_of)]  # noqa: N806 -- a type

    @router.post("/release")
    async def begin(
        body: Annotated[BeginRequest, Body()], model: Model, by: Caller
    ) -> ReleaseResponse:
        """Begin the release of a version that Triton has READY.

        It takes the place of one that is active for another version.
        """
        request = msgspec.convert(msgspec.to_builtins(body), ReleaseRequest)
        return await hosting.find(model).release.begin(request, by)

    @router.post("/release/advance")
    async def advance(
        body: Annotated[ReleaseAdvance, Body()], model: Model, by: Caller
    ) -> ReleaseResponse:
        """Carry out the verdict on the present step, or on the time after the switch."""
        return await hosting.find(model).release.advance(body, by)

    @router.post("/release/approve")
    async def approve(
        body: Annotated[ReleaseDecision, Body()], model: Model, by: Caller
    ) -> ReleaseResponse:
        """Approve what a waiting release waits for.

        The token's name and the reason are recorded.
        """
        return await hosting.find(model).release.approve(body, by)

    @router.post(
        "/release/stop",
        responses={202: {"model": ReleaseResponse, "description": "In effect, not yet stored."}},
    )
    async def stop(
        body: Annotated[ReleaseDecision, Body()], model: Model, by: Caller, response: Response
    ) -> ReleaseResponse:
        """End a release: A answers all clients.

        While the version after a switch is watched, this rolls A back to the one before and pins
        it. Where the store cannot be written, 202: the stop is in effect on the replica that
        answers, which goes on trying to write it; ask each replica.
        """
        done = await hosting.find(model).release.stop(body, by)
        response.status_code = 202 if done.status == "stop_pending" else 200
        return done
