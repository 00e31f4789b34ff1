"""The routes of one model: what it is served by, and the changes of that.

They stand twice in the application: unprefixed for the default model, and below
`/models/{model}` for any.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Query, Request, Response

from serving_gateway.contract import (
    ClearResponse,
    HealthStatus,
    ReadyStatus,
    ReloadRequest,
    ReloadResponse,
    RollbackRequest,
    ShadowReport,
    TrafficRequest,
    TrafficResponse,
)
from serving_gateway.control.hosting import Hosting
from serving_gateway.http.descriptions import (
    API_KEY,
    CHANGE_ERRORS,
    CONTROL_TOKEN,
    KEY_IS_OPTIONAL,
    READ_ERRORS,
    errors,
)
from serving_gateway.http.routes import StructResponse, route_class
from serving_gateway.http.security import Access

NameOf = Callable[..., Awaitable[str]]
"""A dependency: the name of the model that a request is about."""
Force = Annotated[
    bool, Query(description="Do it although A answered clients within the last minute.")
]
Reason = Annotated[str | None, Query(description="Why, for the record.", max_length=500)]
_RELOAD: Final = ReloadRequest()
_ROLLBACK: Final = RollbackRequest()
NOT_READY: Final[dict[int | str, dict[str, Any]]] = {
    503: {"description": "Not ready; `reasons` says why.", "model": ReadyStatus}
}


def health_routes(hosting: Hosting, prefix: str, name_of: NameOf) -> APIRouter:
    """Health of the model that `name_of` names; it needs no key."""
    router = APIRouter(
        prefix=prefix,
        tags=["health"],
        responses=errors(*READ_ERRORS),
        default_response_class=StructResponse,
    )

    @router.get("/health")
    async def health(model: Annotated[str, Depends(name_of)]) -> HealthStatus:
        """Whether the process lives; always 200 while it does."""
        return hosting.plane(model).status.health()

    return router


def shadow_routes(hosting: Hosting, access: Access, prefix: str, name_of: NameOf) -> APIRouter:
    """The comparison of the variants of the model that `name_of` names."""
    router = APIRouter(
        prefix=prefix,
        tags=["state"],
        dependencies=[API_KEY],
        responses=errors(*READ_ERRORS),
        default_response_class=StructResponse,
        route_class=route_class(lambda r: access.admit_client_data(r.headers.raw), 0),
    )

    @router.get("/shadow", openapi_extra=KEY_IS_OPTIONAL)
    async def shadow(request: Request, model: Annotated[str, Depends(name_of)]) -> ShadowReport:
        """How B's answers to mirrored requests compare with A's, on this replica.

        Examples are clients' rows: only callers with a control token see them.
        """
        may_change = access.tokens.name_of(request.headers.raw) is not None
        return hosting.plane(model).status.shadow(examples=may_change)

    return router


def ready_response(status: ReadyStatus, response: Response) -> ReadyStatus:
    """Answer 503 where there are reasons not to be ready."""
    if status.reasons:
        response.status_code = 503
    return status


def control_routes(
    hosting: Hosting, access: Access, max_body: int, prefix: str, name_of: NameOf
) -> APIRouter:
    """The routes that change what the model that `name_of` names is served by.

    Args:
        hosting: finds the model.
        access: who may change it.
        max_body: largest body in bytes.
        prefix: of the paths.
        name_of: names the model of a request.
    """
    router = APIRouter(
        prefix=prefix,
        tags=["control"],
        responses=errors(*CHANGE_ERRORS),
        dependencies=[CONTROL_TOKEN],
        default_response_class=StructResponse,
        route_class=route_class(lambda r: access.admit_control(r.headers.raw), max_body),
    )

    async def caller(request: Request) -> str:
        return access.tokens.authenticate(request.headers.raw)

    Model = Annotated[str, Depends(name_of)]  # noqa: N806 -- a type
    Caller = Annotated[str, Depends(caller)]  # noqa: N806 -- a type

    @router.post("/variant/{alias}/reload")
    async def reload(
        alias: str, model: Model, by: Caller, body: Annotated[ReloadRequest, Body()] = _RELOAD
    ) -> ReloadResponse:
        """Move a variant to a version that Triton has READY; without a body, follow Triton."""
        async with hosting.opened(model) as hosted:
            return await hosted.control_plane.reload(alias, body, by)

    @router.post("/variant/{alias}/rollback")
    async def rollback(
        alias: str, model: Model, by: Caller, body: Annotated[RollbackRequest, Body()] = _ROLLBACK
    ) -> ReloadResponse:
        """Move a variant back to the version before, and pin it there."""
        hosted = hosting.plane(model)
        return await hosted.control_plane.rollback(alias, body, by)

    @router.delete("/variant/{alias}")
    async def clear(
        alias: str, model: Model, by: Caller, force: Force = False, reason: Reason = None
    ) -> ClearResponse:
        """Take variant B's version away."""
        control_plane = hosting.plane(model).control_plane
        return await control_plane.clear_variant(alias, force=force, by=by, reason=reason)

    @router.put("/traffic")
    async def traffic(
        body: Annotated[TrafficRequest, Body()], model: Model, by: Caller
    ) -> TrafficResponse:
        """Set what variant B gets of the traffic."""
        return await hosting.plane(model).control_plane.set_traffic(body, by)

    return router
