"""The application: every route, on FastAPI."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.middleware.gzip import GZipMiddleware

from serving_gateway.contract import ModelStatus, ReadyStatus, RemovalResponse
from serving_gateway.control.hosting import Hosting
from serving_gateway.http.descriptions import (
    API_KEY,
    CHANGE_ERRORS,
    CONTROL_TOKEN,
    KEY_IS_OPTIONAL,
    READ_ERRORS,
    errors,
    errors_of_text,
)
from serving_gateway.http.error_handlers import handle_errors
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.http.inference_routes import (
    inference_routes,
    protocol_health_routes,
    protocol_routes,
)
from serving_gateway.http.middleware import DataPlaneCors
from serving_gateway.http.model_routes import (
    NOT_READY,
    Force,
    Reason,
    control_routes,
    health_routes,
    ready_response,
    shadow_routes,
)
from serving_gateway.http.pages import page_routes
from serving_gateway.http.routes import StructResponse, route_class
from serving_gateway.http.security import Access
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics

_COMPRESSED_FROM_BYTES = 1_024


def build(
    settings: Settings,
    hosting: Hosting,
    metrics: Metrics,
    access: Access,
    endpoint: InferenceEndpoint,
) -> FastAPI:
    """The FastAPI application.

    Args:
        settings: limits.
        hosting: finds the model of a request.
        metrics: what `/metrics` shows.
        access: who may do what.
        endpoint: answers predictions.
    """
    app = FastAPI(
        title="Serving gateway",
        version="0.1.0",
        redirect_slashes=False,
        docs_url=None,  # the framework's page loads its script from a CDN
        redoc_url=None,
    )

    async def default() -> str:
        return hosting.default.model_name

    async def named(model: str) -> str:
        return model

    app.include_router(inference_routes(access, endpoint, settings.max_body_bytes))
    app.include_router(protocol_health_routes(hosting))
    app.include_router(protocol_routes(hosting, access))
    app.include_router(_readiness_routes(hosting))
    app.include_router(_state_routes(hosting, access, metrics))
    app.include_router(_removal_routes(hosting, access))
    limit = settings.max_control_body_bytes
    for prefix, name_of in (("", default), ("/models/{model}", named)):
        app.include_router(health_routes(hosting, prefix, name_of))
        app.include_router(shadow_routes(hosting, access, prefix, name_of))
        app.include_router(control_routes(hosting, access, limit, prefix, name_of))
    app.include_router(page_routes())
    handle_errors(app, hosting, access.data)
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESSED_FROM_BYTES, compresslevel=5)
    if settings.cors_origins:
        app.add_middleware(DataPlaneCors, origins=settings.cors_origins)
    return app


def _readiness_routes(hosting: Hosting) -> APIRouter:
    responses: dict[int | str, dict[str, Any]] = {**errors(*READ_ERRORS), **NOT_READY}
    router = APIRouter(tags=["health"], responses=responses, default_response_class=StructResponse)

    @router.get("/ready")
    async def ready(response: Response) -> ReadyStatus:
        """Whether this replica should get traffic."""
        return ready_response(hosting.readiness(), response)

    @router.get("/models/{model}/ready")
    async def model_ready(model: str, response: Response) -> ReadyStatus:
        """Whether this replica can answer for one model: A's version is confirmed READY."""
        return ready_response(hosting.plane(model).status.ready(), response)

    return router


def _state_routes(hosting: Hosting, access: Access, metrics: Metrics) -> APIRouter:
    router = APIRouter(
        tags=["state"],
        dependencies=[API_KEY],
        default_response_class=StructResponse,
        route_class=route_class(lambda r: access.admit_status(r.headers.raw), 0),
    )

    described: dict[str, Any] = {
        "responses": errors(*READ_ERRORS),
        "openapi_extra": KEY_IS_OPTIONAL,
    }

    @router.get("/models", **described)
    async def models() -> ModelStatus:
        """What Triton serves of the default model at this moment, and what is routed to."""
        return await hosting.default.status.models()

    @router.get("/models/{model}", **described)
    async def model_status(model: str) -> ModelStatus:
        """What Triton serves of a model at this moment, and what the gateway routes to."""
        return await hosting.plane(model).status.models()

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=errors_of_text(*READ_ERRORS),
        openapi_extra=KEY_IS_OPTIONAL,
    )
    async def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(
            await metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router


def _removal_routes(hosting: Hosting, access: Access) -> APIRouter:
    router = APIRouter(
        tags=["control"],
        dependencies=[CONTROL_TOKEN],
        responses=errors(*CHANGE_ERRORS),
        default_response_class=StructResponse,
        route_class=route_class(lambda r: access.admit_control(r.headers.raw), 0),
    )

    async def caller(request: Request) -> str:
        return access.tokens.authenticate(request.headers.raw)

    @router.delete("/models/{model}")
    async def remove(
        model: str,
        by: Annotated[str, Depends(caller)],
        force: Force = False,
        reason: Reason = None,
    ) -> RemovalResponse:
        """Host a model no longer; its versions stay READY in Triton."""
        return await hosting.remove(model, force=force, by=by, reason=reason)

    return router
