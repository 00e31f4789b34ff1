"""`GET /`: the page for people, under a policy that lets it load and run nothing but itself."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final

_INLINE: Final = re.compile(r"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL)


def read_page() -> tuple[str, dict[str, str]]:
    """The page and its headers; the policy holds the digests of its own script and style."""
    page = files("serving_gateway.http").joinpath("page.html").read_text(encoding="utf-8")
    digests = {
        kind: b64encode(sha256(content.encode()).digest()).decode()
        for kind, content in _INLINE.findall(page)
    }
    policy = (
        "default-src 'none'",
        f"script-src 'sha256-{digests['script']}'",
        f"style-src 'sha256-{digests['style']}'",
        "connect-src 'self'",
        "img-src data:",  # the empty icon, so that no browser asks for /favicon.ico
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return page, {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
