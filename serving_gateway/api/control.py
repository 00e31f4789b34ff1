"""The control plane and the self-description over HTTP, on FastAPI."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from serving_gateway.api import openapi
from serving_gateway.api.page import read_page
from serving_gateway.api.predict import invalid
from serving_gateway.api.raw import check_json, encode, error_body, read_body
from serving_gateway.api.security import ControlGuard
from serving_gateway.contract import ReloadAnswer, ReloadRequest, RollbackRequest, TrafficRequest
from serving_gateway.control_plane import ControlPlane, TrafficAnswer
from serving_gateway.errors import (
    Forbidden,
    GatewayError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
)
from serving_gateway.metrics import Metrics
from serving_gateway.overview import Health, Models, Overview, Ready
from serving_gateway.serving import Serving
from serving_gateway.settings import Settings
from serving_gateway.shadow import Shadow

_Body = TypeVar("_Body", bound=msgspec.Struct)
_CHANGE_ERRORS = (400, 401, 403, 404, 409, 413, 415, 422, 502, 503, 504)


def json_answer(body: Any, status: int = 200) -> Response:
    """An answer of any msgspec type."""
    return Response(encode(body), status, media_type="application/json")


def build(
    settings: Settings,
    serving: Serving,
    control: ControlPlane,
    overview: Overview,
    metrics: Metrics,
) -> FastAPI:
    """The FastAPI application; it gets all requests that are no predictions."""
    app = FastAPI(title="Serving gateway", version="0.1.0", redirect_slashes=False)
    guard = ControlGuard(settings.control_token)
    _handle_errors(app, serving)
    _describe(app)

    def caller(request: Request) -> str:
        peer = None if request.client is None else request.client.host
        return guard.admit(peer, request.headers)

    async def read(request: Request, kind: type[_Body], default: _Body | None) -> _Body:
        headers = request.headers.raw
        body = await read_body(request.receive, headers, settings.max_control_body_bytes)
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

    page, page_headers = read_page()

    @app.get("/", tags=["state"], response_class=HTMLResponse)
    async def root() -> Response:
        """A page for people: what is in production, live."""
        return HTMLResponse(page, headers=page_headers)

    @app.get("/health", tags=["state"], responses=openapi.responses(Health))
    async def health() -> Response:
        """Whether the process lives; always 200 while it does."""
        return json_answer(overview.health())

    ready_responses = {
        **openapi.responses(Ready),
        503: {"description": "Not ready; the reasons say why.", **openapi.body_of(Ready)},
    }

    @app.get("/ready", tags=["state"], responses=ready_responses)
    async def ready() -> Response:
        """Whether this replica should get traffic: variant A's version is confirmed READY."""
        found = overview.ready()
        return json_answer(found, 503 if found.reasons else 200)

    @app.get("/models", tags=["state"], responses=openapi.responses(Models))
    async def models() -> Response:
        """What Triton serves at this moment, and what the gateway routes to."""
        return json_answer(await overview.models())

    @app.get("/shadow", tags=["state"], responses=openapi.responses(Shadow))
    async def shadow(request: Request) -> Response:
        """How B's answers to mirrored requests compare with A's, on this replica.

        Examples are clients' rows: only callers that may use the control endpoints see them.
        """
        try:
            caller(request)
        except (Forbidden, Unauthenticated):
            return json_answer(overview.shadow(examples=False))
        return json_answer(overview.shadow(examples=True))

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post(
        "/variant/{alias}/reload",
        tags=["control"],
        responses=openapi.responses(ReloadAnswer, *_CHANGE_ERRORS),
        openapi_extra={"requestBody": openapi.body_of(ReloadRequest)},
    )
    async def reload(alias: str, request: Request, by: str = Depends(caller)) -> Response:
        """Move a variant to a version that Triton has READY; without a body, follow Triton."""
        wishes = await read(request, ReloadRequest, ReloadRequest())
        return json_answer(await control.reload(alias, wishes, by))

    @app.post(
        "/variant/{alias}/rollback",
        tags=["control"],
        responses=openapi.responses(ReloadAnswer, *_CHANGE_ERRORS),
        openapi_extra={"requestBody": openapi.body_of(RollbackRequest)},
    )
    async def rollback(alias: str, request: Request, by: str = Depends(caller)) -> Response:
        """Move a variant back to the version before, and pin it there."""
        wishes = await read(request, RollbackRequest, RollbackRequest())
        return json_answer(await control.rollback(alias, wishes, by))

    @app.put(
        "/traffic",
        tags=["control"],
        responses=openapi.responses(TrafficAnswer, *_CHANGE_ERRORS),
        openapi_extra={"requestBody": {"required": True, **openapi.body_of(TrafficRequest)}},
    )
    async def traffic(request: Request, by: str = Depends(caller)) -> Response:
        """Set what variant B gets of the traffic."""
        wishes = await read(request, TrafficRequest, None)
        return json_answer(await control.set_traffic(wishes, by))

    return app


def _handle_errors(app: FastAPI, serving: Serving) -> None:
    """The one table from errors to answers."""

    async def ours(request: Request, error: Exception) -> Response:
        if not isinstance(error, GatewayError):  # registered for these alone
            raise error
        request_id = request.scope.get("request_id")
        body, headers = error_body(error, request_id, serving.still_served())
        return Response(body, error.status, {k.decode(): v.decode() for k, v in headers})

    async def starlettes(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code == 405:
            translated: GatewayError = MethodNotAllowed(
                f"{request.url.path} does not have the method {request.method}."
            )
        else:
            translated = NotFound(f"There is no {request.url.path}; /docs lists what there is.")
        answer = await ours(request, translated)
        if error.headers is not None and "Allow" in error.headers:
            answer.headers["allow"] = error.headers["Allow"]
        return answer

    app.add_exception_handler(GatewayError, ours)
    app.add_exception_handler(HTTPException, starlettes)


def _describe(app: FastAPI) -> None:
    """Put the hand-written parts into the OpenAPI page."""

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=app.version, routes=app.routes)
            described["paths"]["/predict"] = openapi.predict_path()
            described.setdefault("components", {}).setdefault("schemas", {}).update(
                openapi.components()
            )
            described["components"]["securitySchemes"] = {
                "control": {"type": "http", "scheme": "bearer"}
            }
            for path in described["paths"].values():
                for operation in path.values():
                    if "control" in operation.get("tags", ()):
                        operation["security"] = [{"control": []}]
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]  # FastAPI's documented way
