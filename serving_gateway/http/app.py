"""The control plane and the self-description over HTTP, on FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from serving_gateway.contract import ModelStatus
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import GatewayError, MethodNotAllowed, NotFound
from serving_gateway.http import openapi
from serving_gateway.http.model_routes import json_answer, model_routes
from serving_gateway.http.page import read_page
from serving_gateway.http.raw import error_body
from serving_gateway.http.security import ControlGuard
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics


def build(settings: Settings, hosting: Hosting, metrics: Metrics) -> FastAPI:
    """The FastAPI application; it gets all requests that are no predictions."""
    app = FastAPI(title="Router gateway", version="0.1.0", redirect_slashes=False)
    guard = ControlGuard(settings.control_token)
    _handle_errors(app, hosting)
    _describe(app)

    async def default() -> str:
        return hosting.default.model_name

    async def named(model_name: str) -> str:
        return model_name

    page, page_headers = read_page()

    @app.get("/", tags=["state"], response_class=HTMLResponse)
    async def root() -> Response:
        """A page for people: what is in production, live."""
        return HTMLResponse(page, headers=page_headers)

    @app.get("/models", tags=["state"], responses=openapi.responses(ModelStatus))
    async def models() -> Response:
        """What Triton serves of the default model at this moment, and what is routed to."""
        return json_answer(await hosting.default.status.models())

    @app.get("/models/{model_name}", tags=["state"], responses=openapi.responses(ModelStatus, 404))
    async def model(model_name: str) -> Response:
        """What Triton serves of a model at this moment, and what the gateway routes to."""
        return json_answer(await hosting.plane(model_name).status.models())

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    limit = settings.max_control_body_bytes
    app.include_router(model_routes(hosting, guard, limit, default, ()))
    app.include_router(
        model_routes(hosting, guard, limit, named, (404,)), prefix="/models/{model_name}"
    )
    return app


def _handle_errors(app: FastAPI, hosting: Hosting) -> None:
    """The one table from errors to answers."""

    async def ours(request: Request, error: Exception) -> Response:
        if not isinstance(error, GatewayError):  # registered for these alone
            raise error
        request_id = request.scope.get("request_id")
        still = hosting.still_served(request.path_params.get("model_name"))
        body, headers = error_body(error, request_id, still)
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
            described["paths"]["/models/{model_name}/predict"] = openapi.predict_path(named=True)
            described.setdefault("components", {}).setdefault("schemas", {}).update(
                openapi.components()
            )
            described["components"]["securitySchemes"] = {
                "control": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
            for path in described["paths"].values():
                for operation in path.values():
                    if "control" in operation.get("tags", ()):
                        operation["security"] = [{"control": []}]
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]  # FastAPI's documented way
