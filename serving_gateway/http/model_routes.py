"""The routes of one model: what it is served by, and the changes of that.

They stand twice in the application: unprefixed for the default model, and below
`/models/{model_name}` for any.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from serving_gateway.contract import (
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
from serving_gateway.errors import Forbidden, MalformedRequest, Unauthenticated
from serving_gateway.http import openapi
from serving_gateway.http.predict import invalid
from serving_gateway.http.raw import check_json, encode, read_body
from serving_gateway.http.security import ControlGuard

_Body = TypeVar("_Body", bound=msgspec.Struct)
CHANGE_ERRORS: Final = (400, 401, 403, 404, 409, 413, 415, 422, 500, 502, 503, 504)
NameOf = Callable[..., Awaitable[str]]
"""A dependency that tells which model a request is about."""


def json_answer(body: Any, status: int = 200) -> Response:
    """An answer of any msgspec type."""
    return Response(encode(body), status, media_type="application/json")


def model_routes(
    hosting: Hosting, guard: ControlGuard, max_body: int, name_of: NameOf, errors: tuple[int, ...]
) -> APIRouter:
    """The routes of the model that `name_of` tells.

    Args:
        hosting: finds the model.
        guard: who may change what is served.
        max_body: largest body in bytes.
        name_of: tells the model of a request.
        errors: what every route may answer because of the model's name.
    """
    router = APIRouter()

    async def caller(request: Request) -> str:
        peer = None if request.client is None else request.client.host
        return guard.admit(peer, request.headers)

    async def read(request: Request, kind: type[_Body], default: _Body | None) -> _Body:
        body = await read_body(request.receive, request.headers.raw, max_body)
        return _decoded(request, body, kind, default)

    @router.get("/health", tags=["state"], responses=openapi.responses(HealthStatus, *errors))
    async def health(name: str = Depends(name_of)) -> Response:
        """Whether the process lives; always 200 while it does."""
        return json_answer(hosting.plane(name).status.health())

    ready_responses = {
        **openapi.responses(ReadyStatus, *errors),
        503: {"description": "Not ready; the reasons say why.", **openapi.body_of(ReadyStatus)},
    }

    @router.get("/ready", tags=["state"], responses=ready_responses)
    async def ready(name: str = Depends(name_of)) -> Response:
        """Whether this replica should get traffic: variant A's version is confirmed READY."""
        found = hosting.plane(name).status.ready()
        return json_answer(found, 503 if found.reasons else 200)

    @router.get("/shadow", tags=["state"], responses=openapi.responses(ShadowReport, *errors))
    async def shadow(request: Request, name: str = Depends(name_of)) -> Response:
        """How B's answers to mirrored requests compare with A's, on this replica.

        Examples are clients' rows: only callers that may use the control endpoints see them.
        """
        status = hosting.plane(name).status
        try:
            await caller(request)
        except (Forbidden, Unauthenticated):
            return json_answer(status.shadow(examples=False))
        return json_answer(status.shadow(examples=True))

    @router.post(
        "/variant/{alias}/reload",
        tags=["control"],
        responses=openapi.responses(ReloadResponse, *CHANGE_ERRORS),
        openapi_extra={"requestBody": openapi.body_of(ReloadRequest)},
    )
    async def reload(
        alias: str, request: Request, by: str = Depends(caller), name: str = Depends(name_of)
    ) -> Response:
        """Move a variant to a version that Triton has READY; without a body, follow Triton."""
        wishes = await read(request, ReloadRequest, ReloadRequest())
        async with hosting.opened(name) as plane:
            answer = await plane.control_plane.reload(alias, wishes, by)
        return json_answer(answer)

    @router.post(
        "/variant/{alias}/rollback",
        tags=["control"],
        responses=openapi.responses(ReloadResponse, *CHANGE_ERRORS),
        openapi_extra={"requestBody": openapi.body_of(RollbackRequest)},
    )
    async def rollback(
        alias: str, request: Request, by: str = Depends(caller), name: str = Depends(name_of)
    ) -> Response:
        """Move a variant back to the version before, and pin it there."""
        plane = hosting.plane(name)
        wishes = await read(request, RollbackRequest, RollbackRequest())
        return json_answer(await plane.control_plane.rollback(alias, wishes, by))

    @router.put(
        "/traffic",
        tags=["control"],
        responses=openapi.responses(TrafficResponse, *CHANGE_ERRORS),
        openapi_extra={"requestBody": {"required": True, **openapi.body_of(TrafficRequest)}},
    )
    async def traffic(
        request: Request, by: str = Depends(caller), name: str = Depends(name_of)
    ) -> Response:
        """Set what variant B gets of the traffic."""
        plane = hosting.plane(name)
        wishes = await read(request, TrafficRequest, None)
        return json_answer(await plane.control_plane.set_traffic(wishes, by))

    return router


def _decoded(request: Request, body: bytes, kind: type[_Body], default: _Body | None) -> _Body:
    if not body.strip() and default is not None:
        return default
    content_type = request.headers.get("content-type")
    check_json(None if content_type is None else content_type.encode())
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"The body is no JSON: {error}.") from error
