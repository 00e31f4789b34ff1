"""Pages for people: status and API, each under a policy for its own scripts and styles only."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from serving_gateway.contract import page_style
from serving_gateway.errors import NotFound
from serving_gateway.http.descriptions import READ_ERRORS, errors
from serving_gateway.http.routes import DescribedRoute

_INLINE: Final = re.compile(r'<(script|style)(?: type="module")?>(.*?)</\1>', re.DOTALL)
_SCRIPTS: Final = (
    *("dom.js", "metrics.js", "charts.js", "timeline.js"),
    *("views.js", "release.js", "actions.js", "loop.js"),
)
_DOCS_FILES: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_router() -> APIRouter:
    """The status page, the API page, and the API page's script and style."""
    responses = errors(*READ_ERRORS)
    router = APIRouter(tags=["state"], responses=responses, route_class=DescribedRoute)
    status = _page(_status_page())
    docs = get_swagger_ui_html(
        title="Readygate: API",
        openapi_url="openapi.json",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},
    )
    api = _page(bytes(docs.body).decode(), "'self'")

    @router.get("/", response_class=HTMLResponse)
    async def status_page() -> Response:
        """Show what is in production, live: the page for people."""
        return status()

    @router.get("/docs", include_in_schema=False)
    async def api_page() -> Response:
        return api()

    @router.get("/docs/{name}", include_in_schema=False)
    async def api_page_file(name: str) -> Response:
        if name not in _DOCS_FILES:
            raise NotFound(f"There is no /docs/{name[:100]}.")
        content = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(content, headers=_HEADERS, media_type=_DOCS_FILES[name])

    return router


def _status_page() -> str:
    """The page with its styles and scripts inline: replicas of two releases never mix theirs."""
    folder = files("serving_gateway.http").joinpath("page")

    def read(*names: str) -> str:
        return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)

    return (
        read("page.html")
        .replace("{{style}}", page_style() + read("page.css"))
        .replace("{{script}}", read(*_SCRIPTS))
    )


def _page(text: str, *own: str) -> Callable[[], Response]:
    """Make responses with a page, under a policy that holds the digests of its inline parts."""
    allowed = {"script": [*own], "style": [*own]}
    for kind, content in _INLINE.findall(text):
        digest = b64encode(sha256(content.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; "
        "img-src data:; "  # the empty icon, so that no browser asks for /favicon.ico
        f"script-src {' '.join(allowed['script'])}; style-src {' '.join(allowed['style'])}"
    )
    return partial(HTMLResponse, text, headers={**_HEADERS, "content-security-policy": policy})
