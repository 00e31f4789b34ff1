"""Request bodies: read under a limit, and decompressed under the same limit."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from starlette.types import Receive

from serving_gateway.errors import (
    ClientGone,
    MalformedRequest,
    TooLarge,
    UnsupportedMediaType,
)
from serving_gateway.http.raw import Header, header

_GZIP: Final = 16 + zlib.MAX_WBITS
_ENCODINGS: Final = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}


async def read_body(receive: Receive, headers: Iterable[Header], limit: int) -> bytes:
    """The decompressed body, of at most `limit` bytes; raises as `decompress`, or `ClientGone`."""
    content_length = header(headers, b"content-length")
    if content_length is not None and int(content_length) > limit:
        raise TooLarge(f"The body has {int(content_length)} bytes; at most {limit} are accepted.")
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(f"The body has more than {limit} bytes; that is the limit.")
        more = message.get("more_body", False)
    return decompress(bytes(body), header(headers, b"content-encoding"), limit)


def decompress(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """Undo the Content-Encoding of a body: gzip, deflate or none.

    No more than `limit` bytes are ever unpacked: `TooLarge` beyond. `MalformedRequest` when it is
    damaged, `UnsupportedMediaType` for another encoding.
    """
    name = (encoding or b"identity").strip().lower()
    if name == b"identity":
        return body
    window = _ENCODINGS.get(name)
    if window is None:
        raise UnsupportedMediaType(
            f"The Content-Encoding {name[:50].decode('latin-1')!r} is not supported; send "
            "gzip, deflate, or the uncompressed body."
        )
    if name == b"deflate" and body[:1] and (body[0] & 0x0F) != zlib.DEFLATED:
        window = -zlib.MAX_WBITS  # some clients leave out the zlib header
    stream = zlib.decompressobj(window)
    try:
        unpacked = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedRequest(f"The body is not valid {name.decode()}: {error}.") from error
    if len(unpacked) > limit:
        raise TooLarge(f"The decompressed body has more than {limit} bytes; that is the limit.")
    if not stream.eof or stream.unused_data:
        # Several members in a row are valid gzip, but unpacking very many small ones takes forever.
        raise MalformedRequest(f"The body is not exactly one {name.decode()} stream.")
    return unpacked


def check_json(content_type: bytes | None) -> None:
    """Accept JSON, or no content type at all; else `UnsupportedMediaType`."""
    kind = (content_type or b"application/json").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise UnsupportedMediaType(
            f"The body is {kind[:100].decode(errors='replace')!r}; send JSON with the header "
            "'Content-Type: application/json'."
        )
