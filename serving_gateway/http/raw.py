"""What every request needs, whichever way it is answered: an id, a line in the log, errors."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable
from typing import Final

from serving_gateway.contract import ErrorResponse
from serving_gateway.errors import GatewayError, printable
from serving_gateway.inference.bodies import encode_json

log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]
"""Lower-case name, and value."""

BUG: Final = "The gateway failed because of a bug; its log says more under this request id."
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Names requests: by the client's id when that is sane, else by process and number."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex().encode() + b"-"
        self._numbers = itertools.count(1)

    def assign(self, given: bytes | None) -> bytes:
        """The id of a request that came with the given x-request-id header."""
        if given is not None and _SANE_ID.fullmatch(given):
            return given
        return b"%s%x" % (self._prefix, next(self._numbers))


def header(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The value of a header by its lower-case name."""
    return next((value for key, value in headers if key == name), None)


def header_text(value: bytes) -> str:
    """The text of a header: UTF-8, like bodies, or else Latin-1, which HTTP once used."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def log_request(method: str, path: str, status: int, request_id: bytes, seconds: float) -> None:
    """Write the line of the access log."""
    fields = {"method": method, "path": path, "status": status, "request_id": request_id.decode()}
    log.info("request", extra={**fields, "seconds": round(seconds, 6)})


def error_body(
    error: GatewayError, request_id: bytes, still_served: dict[str, int] | None
) -> tuple[bytes, list[Header]]:
    """Body and headers that describe an error; what it echoes is bounded and valid UTF-8."""
    response = ErrorResponse(
        status="error",
        code=error.code,
        error=printable(error.message),
        request_id=request_id.decode(),
        field=None if error.field is None else printable(error.field, 500),
        retry_after=error.retry_after,
        still_served=still_served,
    )
    headers = [(b"content-type", b"application/json")]
    if error.status == 413:
        # The rest of the body is not worth reading.
        headers.append((b"connection", b"close"))
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return encode_json(response), headers
