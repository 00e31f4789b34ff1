"""The application: every route, on FastAPI."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.middleware.gzip import GZipMiddleware

from serving_gateway import __version__
from serving_gateway.contract import ErrorResponse
from serving_gateway.contract.struct import fill_in
from serving_gateway.control.hosting import Hosting
from serving_gateway.http.descriptions import READ_ERRORS, TAGS, errors
from serving_gateway.http.error_handlers import handle_errors
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.http.inference_routes import inference_routers
from serving_gateway.http.middleware import DataPlaneCors
from serving_gateway.http.model_routes import model_routers
from serving_gateway.http.outcome_routes import OutcomeReceiver, outcome_routers
from serving_gateway.http.pages import page_router
from serving_gateway.http.routes import guarded_router
from serving_gateway.http.security import Access, Need
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics

_COMPRESSED_FROM_BYTES = 1_024


def build(
    settings: Settings,
    hosting: Hosting,
    metrics: Metrics,
    access: Access,
    endpoint: InferenceEndpoint,
    receiver: OutcomeReceiver,
) -> FastAPI:
    """The FastAPI application."""
    app = FastAPI(
        title="Readygate",
        version=__version__,
        openapi_tags=TAGS,
        redirect_slashes=False,
        docs_url=None,  # the framework's page loads its script from a CDN
        redoc_url=None,
    )
    for router in (
        *inference_routers(hosting, access, endpoint, settings.max_body_bytes),
        *outcome_routers(hosting, access, receiver, settings.max_body_bytes),
        _metrics_router(access, metrics),  # FastAPI builds up to the requested route: early is fast
        *model_routers(hosting, access),
        page_router(),
    ):
        app.include_router(router)
    handle_errors(app, hosting, access)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = generate()["components"]["schemas"]
            schemas.setdefault(ErrorResponse.__name__, {})
            fill_in(schemas)
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESSED_FROM_BYTES, compresslevel=5)
    if settings.cors_origins:
        app.add_middleware(DataPlaneCors, origins=settings.cors_origins)
    return app


def _metrics_router(access: Access, metrics: Metrics) -> APIRouter:
    router = guarded_router(access, Need.STATUS, "state")
    responses = errors(*READ_ERRORS)

    @router.get("/metrics", response_class=PlainTextResponse, responses=responses)
    async def prometheus(model: str | None = None) -> Response:
        """Read the metrics of this replica in Prometheus's text format.

        With `model`, those of one model alone.
        """
        parts = await metrics.render() if model is None else metrics.render_model(model)
        text = _with_pauses(parts)
        return StreamingResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _with_pauses(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Yield the parts one by one, so that compressing megabytes does not block the event loop."""
    for part in parts:
        yield part
        await asyncio.sleep(0)
