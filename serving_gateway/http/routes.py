"""What the routes share: admission before a body is read, descriptions, structs."""

import inspect
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from serving_gateway.http.bodies import check_json, read_body
from serving_gateway.http.descriptions import (
    API_KEY,
    CONTROL_TOKEN,
    KEY_IS_OPTIONAL,
    READ_ERRORS,
    Responses,
    errors,
)
from serving_gateway.http.raw import header
from serving_gateway.http.security import Access, Need
from serving_gateway.inference.bodies import encode_json


class StructResponse(JSONResponse):
    """A JSON body, encoded by msgspec."""

    def render(self, content: Any) -> bytes:
        """The bytes of any msgspec type."""
        return encode_json(content)


class _ReadRequest(Request):
    """A request whose body was read under the limit; msgspec decodes it, not FastAPI."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body

    async def json(self) -> Any:
        return self._body


class DescribedRoute(APIRoute):
    """A route whose title on the API page is the docstring's first paragraph; the rest follows."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        title, _, rest = (inspect.getdoc(endpoint) or "").partition("\n\n")
        self.summary, self.description = title.removesuffix("."), rest or title


def open_router(
    tag: str,
    prefix: str = "",
    *statuses: int,
    responses: Responses | None = None,
    route_class: type[APIRoute] = DescribedRoute,
    **options: Any,
) -> APIRouter:
    """A JSON router open to everyone; it describes these error statuses beyond the usual."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        responses={**errors(*READ_ERRORS, *statuses), **(responses or {})},
        default_response_class=StructResponse,
        route_class=route_class,
        **options,
    )


def guarded_router(
    access: Access, need: Need, tag: str, prefix: str = "", *, max_body: int = 0
) -> APIRouter:
    """A JSON router that admits requests before it reads their body, of `max_body` bytes."""
    is_control = need is Need.CONTROL

    class GuardedRoute(DescribedRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            if not is_control:
                extra = options.get("openapi_extra") or {}
                options["openapi_extra"] = {**KEY_IS_OPTIONAL, **extra}
            super().__init__(path, endpoint, **options)

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            has_body = self.body_field is not None

            async def handle_admitted(request: Request) -> Response:
                headers = request.headers.raw
                request.state.token_name = access.admit(need, headers)
                if has_body:
                    body = await read_body(request.receive, headers, max_body)
                    if need is not Need.PREDICTION:  # tensors are not JSON
                        body = body.strip()
                        check_json(header(headers, b"content-type") if body else None)
                    request = _ReadRequest(request, body)
                return await handle(request)

            return handle_admitted

    statuses = (*((409,) if is_control else ()), *((413, 415) if max_body else ()))
    credential = CONTROL_TOKEN if is_control else API_KEY
    return open_router(tag, prefix, *statuses, dependencies=[credential], route_class=GuardedRoute)


def _caller(request: Request) -> str:
    return f"token:{request.state.token_name}"


Caller = Annotated[str, Depends(_caller)]
"""Who makes a change, for the record; for control routes only."""
