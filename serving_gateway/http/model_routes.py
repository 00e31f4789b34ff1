"""The routes of one model: its status, and the changes of what it is served by.

They exist twice in the application: unprefixed for the default model, and below `/models/{model}`
for any.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response

from serving_gateway.contract import (
    ClearResponse,
    HealthStatus,
    ModelStatus,
    ReadyStatus,
    ReloadRequest,
    ReloadResponse,
    RemovalResponse,
    RollbackRequest,
    ShadowReport,
    TrafficRequest,
    TrafficResponse,
)
from serving_gateway.control.hosting import Hosting
from serving_gateway.http.descriptions import Responses
from serving_gateway.http.release_routes import add_release_changes, add_release_report
from serving_gateway.http.routes import Caller, guarded_router, open_router
from serving_gateway.http.security import Access, Need

NameDependency = Callable[..., Awaitable[str]]
"""A dependency: the name of the model that a request is about."""
Alias = Annotated[str, Path(description="A is production, B the shadow or candidate.")]
Force = Annotated[
    bool, Query(description="Do it although A answered clients within the last minute.")
]
Reason = Annotated[str | None, Query(description="Why, for the record.", max_length=500)]
_MAX_BODY_BYTES: Final = 65_536
_RELOAD: Final = ReloadRequest()
_ROLLBACK: Final = RollbackRequest()
_NOT_READY: Final[Responses] = {
    503: {"description": "Not ready; `reasons` says why.", "model": ReadyStatus}
}


def model_routers(hosting: Hosting, access: Access) -> Iterator[APIRouter]:
    """All routes of models."""

    async def default() -> str:
        return hosting.default.model_name

    async def named(model: str) -> str:
        return model

    ready = open_router("health", responses=_NOT_READY)
    _add_readiness(ready, hosting)
    yield ready
    for prefix, name_of in (("", default), ("/models/{model}", named)):
        health = open_router("health", prefix)
        status = guarded_router(access, Need.STATUS, "state", prefix)
        shadow = guarded_router(access, Need.CLIENT_DATA, "state", prefix)
        control = guarded_router(access, Need.CONTROL, "control", prefix, max_body=_MAX_BODY_BYTES)
        _add_reads(health, status, shadow, hosting, name_of)
        add_release_report(shadow, hosting, name_of)
        _add_changes(control, hosting, name_of)
        add_release_changes(control, hosting, name_of)
        _add_removals(control, hosting, name_of)
        yield from (health, status, shadow, control)


def _add_readiness(router: APIRouter, hosting: Hosting) -> None:
    def answer(status: ReadyStatus, response: Response) -> ReadyStatus:
        response.status_code = 503 if status.reasons else 200
        return status

    @router.get("/ready")
    async def ready(response: Response) -> ReadyStatus:
        """Say whether this replica should get traffic."""
        return answer(hosting.readiness(), response)

    @router.get("/models/{model}/ready")
    async def model_ready(model: str, response: Response) -> ReadyStatus:
        """Say whether this replica can answer for one model.

        It can once the version of its variant A is confirmed READY.
        """
        return answer(hosting.find(model).status.ready(), response)


def _add_reads(
    health_router: APIRouter,
    status_router: APIRouter,
    shadow_router: APIRouter,
    hosting: Hosting,
    name_of: NameDependency,
) -> None:
    Model = Annotated[str, Depends(name_of)]  # noqa: N806 -- a type

    @health_router.get("/health")
    async def health(model: Model) -> HealthStatus:
        """Say whether the process lives.

        Always 200 while it does.
        """
        return hosting.find(model).status.health()

    @status_router.get("" if status_router.prefix else "/models")
    async def models(model: Model) -> ModelStatus:
        """Read what Triton serves of a model at this moment, and what is routed to."""
        return await hosting.find(model).status.models()

    @shadow_router.get("/shadow")
    async def shadow(request: Request, model: Model) -> ShadowReport:
        """Compare B's answers to mirrored requests with A's, on this replica.

        Examples are clients' rows: only callers with a control token see them.
        """
        may_change = request.state.token_name is not None
        return hosting.find(model).status.shadow(examples=may_change)


def _add_changes(router: APIRouter, hosting: Hosting, name_of: NameDependency) -> None:
    Model = Annotated[str, Depends(name_of)]  # noqa: N806 -- a type

    @router.post("/variant/{alias}/reload")
    async def reload(
        alias: Alias, model: Model, by: Caller, body: Annotated[ReloadRequest, Body()] = _RELOAD
    ) -> ReloadResponse:
        """Move a variant to a version that Triton has READY.

        Without a body, follow Triton.
        """
        async with hosting.open_model(model) as hosted:
            return await hosted.control_plane.reload(alias, body, by)

    @router.post("/variant/{alias}/rollback")
    async def rollback(
        alias: Alias, model: Model, by: Caller, body: Annotated[RollbackRequest, Body()] = _ROLLBACK
    ) -> ReloadResponse:
        """Move a variant back to the version before, and pin it there."""
        return await hosting.find(model).control_plane.rollback(alias, body, by)

    @router.put("/traffic")
    async def traffic(
        body: Annotated[TrafficRequest, Body()], model: Model, by: Caller
    ) -> TrafficResponse:
        """Set what variant B gets of the traffic."""
        return await hosting.find(model).control_plane.set_traffic(body, by)


def _add_removals(router: APIRouter, hosting: Hosting, name_of: NameDependency) -> None:
    @router.delete("/variant/{alias}")
    async def clear(
        alias: Alias,
        model: Annotated[str, Depends(name_of)],
        by: Caller,
        force: Force = False,
        reason: Reason = None,
    ) -> ClearResponse:
        """Take variant B's version away."""
        control_plane = hosting.find(model).control_plane
        return await control_plane.clear_variant(alias, force=force, by=by, reason=reason)

    if router.prefix:

        @router.delete("")
        async def remove(
            model: str, by: Caller, force: Force = False, reason: Reason = None
        ) -> RemovalResponse:
            """Stop hosting a model.

            Its versions stay READY in Triton.
            """
            return await hosting.remove(model, force=force, by=by, reason=reason)
