"""The one table from exceptions to the answers that callers get."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import (
    ClientGone,
    GatewayError,
    InvalidInput,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    printable,
)
from serving_gateway.http.raw import BUG, error_body
from serving_gateway.http.security import Access
from serving_gateway.inference.bodies import unreadable_body
from serving_gateway.telemetry.logs import RepeatedWarning

log = logging.getLogger(__name__)


def handle_errors(app: FastAPI, hosting: Hosting, access: Access) -> None:
    """Register an answer to every exception of the application."""
    unanswered = RepeatedWarning(log, "a request was not answered")

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientGone):
            return Response(status_code=499)  # for the metrics: there is no client to read it
        translated = _translate(request, error)
        request_id: bytes = request.scope["request_id"]
        tags = getattr(request.scope.get("route"), "tags", ())
        still, is_known = None, access.has_key(request.headers.raw)
        if not is_known and translated.code == "unknown_model":
            translated = NotFound("The gateway does not host that model.", code="unknown_model")
        # A mistake in a prediction is unrelated to what is served; a failure of the gateway is not.
        if is_known and (translated.status >= 500 or "data" not in tags):
            still = hosting.still_served(request.path_params.get("model"))
        if translated.status >= 500:
            unanswered.log(
                translated.code, request_id=request_id.decode(), reason=translated.message
            )
        body, headers = error_body(translated, request_id, still)
        if isinstance(translated, MethodNotAllowed):
            headers.append((b"allow", translated.allow.encode()))
        response = Response(body, translated.status)
        response.headers.raw.extend(headers)
        return response

    for kind in (GatewayError, RequestValidationError, HTTPException, ClientGone, Exception):
        app.add_exception_handler(kind, answer)


def _translate(request: Request, error: Exception) -> GatewayError:
    """The gateway's error for any exception of an endpoint or of the framework."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid_request(error)
    path = printable(request.url.path, 200)
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        text = f"{path} does not have the method {printable(request.method, 50)}."
        return MethodNotAllowed(text, allow=", ".join(_methods(request)))
    if status == 404:
        return NotFound(f"There is no {path}; /docs lists what there is.")
    return GatewayError(BUG)


def _methods(request: Request) -> Iterator[str]:
    """The methods that the path of a request has."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] == Match.FULL for route in request.app.router.routes):
            yield method
            if method == "GET":
                yield "HEAD"


def _invalid_request(error: RequestValidationError) -> GatewayError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    is_missing = first["type"] == "missing"
    if is_missing and not place:
        return MalformedRequest("The body is empty; this endpoint needs one, as JSON.")
    cause = getattr(first.get("ctx", {}).get("error"), "__cause__", None)
    if isinstance(cause, (ValueError, RecursionError)):
        return unreadable_body(cause)
    code = "missing_field" if is_missing else "wrong_type"
    return InvalidInput(f"{place}: {first['msg']}.", field=place or None, code=code)
