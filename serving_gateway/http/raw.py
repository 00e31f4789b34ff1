"""What every request needs, whichever way it is answered: ids, trace contexts, error bodies."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

import msgspec

from serving_gateway.errors import GatewayError, error_response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

encode: Final = msgspec.json.Encoder().encode
JSON: Final[Header] = (b"content-type", b"application/json")
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Names requests: as the client did when that is sane, else by process and number."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex().encode() + b"-"
        self._numbers = itertools.count(1)

    def of(self, given: bytes | None) -> bytes:
        """The id of a request that came with the given x-request-id header."""
        if given is not None and _SANE_ID.fullmatch(given):
            return given
        return b"%s%x" % (self._prefix, next(self._numbers))


def trace_context(traceparent: bytes | None) -> bytes | None:
    """The W3C trace context of a header; one that is none is ignored, as the standard wants."""
    if traceparent is None or _TRACEPARENT.fullmatch(traceparent) is None:
        return None
    return traceparent


def header(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The value of a header by its lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None


def error_body(
    error: GatewayError, request_id: bytes | None, still_served: dict[str, int] | None
) -> tuple[bytes, list[Header]]:
    """Body and headers that describe an error."""
    described = error_response(
        error,
        request_id=None if request_id is None else request_id.decode(),
        still_served=still_served,
    )
    headers = [JSON]
    if error.status == 413:
        # What the client still sends of the body is not worth reading.
        headers.append((b"connection", b"close"))
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return encode(described), headers
