"""The head of a request, as its parser delivers it; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving_gateway.errors import MalformedRequest
from serving_gateway.http.raw import Header

Head = tuple[bytes, Sequence[Header]]
"""Target and headers."""

_ONCE: Final = (b"authorization", b"content-length", b"content-type", b"host")
"""Headers that two parsers could understand differently when sent twice."""
_OFFER: Final = frozenset([b"upgrade", b"http2-settings", b"connection"])


def head_size(url: bytes, headers: Sequence[Header]) -> int:
    """Bytes of a target and its headers, about as they came."""
    return 1 + len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_head(headers: Sequence[Header], http_version: str) -> MalformedRequest | None:
    """Return the refusal of a head that two parsers could understand differently (RFC 9112)."""
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            text = f"The request names {name.decode()} twice."
            return MalformedRequest(text, code="malformed_head")
    if b"host" not in names and http_version == "1.1":
        return MalformedRequest("The request has no Host header.", code="malformed_head")
    return None


def head_without_upgrade(
    method: bytes, url: bytes, http_version: str, headers: Sequence[Header]
) -> bytes:
    """The bytes of a head that no longer offers another protocol."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, http_version.encode())]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in _OFFER]
    return b"".join([*lines, b"\r\n"])
