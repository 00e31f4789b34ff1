"""What every raw ASGI endpoint needs: bodies under a limit, answers, errors."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

import msgspec

from serving_gateway.errors import (
    ClientGone,
    GatewayError,
    MalformedRequest,
    TooLarge,
    UnsupportedMediaType,
    error_response,
)

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


async def read_body(receive: Receive, headers: Iterable[Header], limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is, or says that it will be, over `limit` bytes.
        MalformedRequest: its announced length is no number.
        ClientGone: the client left before it was complete.
    """
    announced = header(headers, b"content-length")
    if announced is not None:
        if not announced.isdigit():
            raise MalformedRequest("The Content-Length is no number.")
        if len(announced) > 18 or int(announced) > limit:
            raise TooLarge(f"The body has {announced.decode()} bytes; at most {limit} are taken.")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if len(body) <= limit and not message.get("more_body", False):
        return body
    parts = [body]
    size = len(body)
    while True:
        if size > limit:
            raise TooLarge(f"The body is over {limit} bytes, the most that is taken.")
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])


def check_json(content_type: bytes | None) -> None:
    """Accept JSON, or no content type at all.

    Raises:
        UnsupportedMediaType: the body says that it is something else.
    """
    if content_type is None or content_type == b"application/json":
        return
    kind = content_type.partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise UnsupportedMediaType(
            f"The body is {kind.decode(errors='replace')!r}; send JSON with the header "
            "'Content-Type: application/json'."
        )


async def answer(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    """Send a whole answer; its length is added to the headers."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return encode(described), headers
