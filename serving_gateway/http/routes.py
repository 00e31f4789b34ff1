"""What the routes share: who is let in before a body is read, and how structs are answered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from serving_gateway.http.bodies import check_json, read_body
from serving_gateway.http.raw import encode

Admit = Callable[[Request], None]
"""Lets a request pass, or raises the error that it is answered."""


class StructResponse(JSONResponse):
    """A JSON body, encoded by msgspec."""

    def render(self, content: Any) -> bytes:
        """The bytes of any msgspec type."""
        return encode(content)


class _ReadRequest(Request):
    """A request whose body was read under the limit; msgspec decodes it, not FastAPI."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body

    async def json(self) -> Any:
        return self._body


def route_class(admit: Admit, max_body: int, *, json_only: bool = True) -> type[APIRoute]:
    """The class of routes that let in whom `admit` does, and then read a limited body.

    Args:
        admit: called before anything of a body is read.
        max_body: most bytes of a body.
        json_only: whether bodies of other content types are refused.
    """

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            has_body = self.body_field is not None

            async def handle_admitted(request: Request) -> Response:
                admit(request)
                if not has_body:
                    return await handle(request)
                headers = request.scope["headers"]
                body = await read_body(request.receive, headers, max_body)
                if json_only:
                    body = body.strip()
                    content_type = request.headers.get("content-type")
                    if body and content_type is not None:
                        check_json(content_type.encode("latin-1"))
                return await handle(_ReadRequest(request, body))

            return handle_admitted

    return GuardedRoute
