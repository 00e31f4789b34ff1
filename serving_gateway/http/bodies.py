"""Request bodies: read under a limit, decompressed under the same, decoded with clear errors."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from serving_gateway.contract.struct import schema_of
from serving_gateway.errors import (
    ClientGone,
    GatewayError,
    MalformedRequest,
    TooLarge,
    UnsupportedMediaType,
)
from serving_gateway.http.raw import Header, Receive, header
from serving_gateway.inference.bodies import invalid_body

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_GZIP: Final = 16 + zlib.MAX_WBITS
_ENCODINGS: Final = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": zlib.MAX_WBITS}


class EncodedAs:
    """Marks a parameter as the bytes of a body that its endpoint decodes: `kind` describes it."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take whatever comes."""
        from pydantic_core import core_schema

        return core_schema.any_schema()

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe what is encoded."""
        return schema_of(self._kind, handler)


async def read_body(receive: Receive, headers: Iterable[Header], limit: int) -> bytes:
    """The whole body, decompressed.

    Args:
        receive: of ASGI.
        headers: of the request.
        limit: most bytes, before and after decompression.

    Raises:
        TooLarge: it is, or says that it will be, over the limit.
        MalformedRequest: its announced length is not a number, or it cannot be decompressed.
        UnsupportedMediaType: it is compressed in an unknown way.
        ClientGone: the client left before it was complete.
    """
    announced = header(headers, b"content-length")
    if announced is not None:
        if not announced.isdigit():
            raise MalformedRequest("The Content-Length is not a number.")
        if len(announced) > 18 or int(announced) > limit:
            raise TooLarge(
                f"The body has {announced[:18].decode()} bytes; at most {limit} are taken."
            )
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge(f"The body is over {limit} bytes, the most that is taken.")
        parts.append(part)
        more = message.get("more_body", False)
    return decompress(b"".join(parts), header(headers, b"content-encoding"), limit)


def decompress(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """A body without its Content-Encoding: gzip, deflate or none.

    No more than `limit` bytes are ever unpacked, however many the body stands for.

    Raises:
        TooLarge: it has more than `limit` bytes.
        MalformedRequest: it is damaged.
        UnsupportedMediaType: the encoding is another one.
    """
    name = (encoding or b"identity").strip().lower()
    if name == b"identity":
        return body
    window = _ENCODINGS.get(name)
    if window is None:
        raise UnsupportedMediaType(
            f"The Content-Encoding {name[:50].decode('latin-1')!r} is not read; send gzip, "
            "deflate, or the body as it is."
        )
    if name == b"deflate" and body[:1] and (body[0] & 0x0F) != zlib.DEFLATED:
        window = -zlib.MAX_WBITS  # some clients leave out the zlib header
    stream = zlib.decompressobj(window)
    try:
        unpacked = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedRequest(f"The body is not valid {name.decode()}: {error}.") from error
    if len(unpacked) > limit:
        raise TooLarge(f"The body unpacks to over {limit} bytes, the most that is taken.")
    if not stream.eof or stream.unused_data:
        # Several members in a row are valid gzip; unpacking very many small ones takes for ever.
        raise MalformedRequest(f"The body is not exactly one {name.decode()} stream.")
    return unpacked


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
            f"The body is {kind[:100].decode(errors='replace')!r}; send JSON with the header "
            "'Content-Type: application/json'."
        )


def decode_error(cause: BaseException | None) -> GatewayError | None:
    """The answer to a body that msgspec cannot decode; None where something else failed."""
    if isinstance(cause, msgspec.ValidationError):
        return invalid_body(cause)
    if isinstance(cause, msgspec.DecodeError | UnicodeDecodeError):
        return MalformedRequest(f"The body is not valid JSON: {cause}.")
    if isinstance(cause, RecursionError):
        return MalformedRequest("The body is nested too deeply.")
    return None
