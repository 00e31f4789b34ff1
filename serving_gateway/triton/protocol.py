"""What Triton says over HTTP besides inferences: metadata and errors."""

from __future__ import annotations

from typing import Final

import msgspec

from serving_gateway.contract import ModelMetadata
from serving_gateway.errors import BadUpstreamAnswer
from serving_gateway.triton.exchange import TritonResponse

_SHOWN: Final = 500
"""Characters of a reason that are passed on."""


class _ErrorBody(msgspec.Struct):
    error: str = ""


_metadata_decoder = msgspec.json.Decoder(ModelMetadata)
_error_decoder = msgspec.json.Decoder(_ErrorBody)


def read_metadata(response: TritonResponse, url: str) -> ModelMetadata | None:
    """A model's description, None when not READY; `BadUpstreamAnswer` when it is unreadable."""
    if response.status != 200:
        return None
    try:
        return _metadata_decoder.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadUpstreamAnswer(
            f"The model metadata of Triton at {url} is unreadable: {error}."
        ) from error


def error_text(body: bytes) -> str:
    """The reason in an error answer of Triton, in any encoding."""
    try:
        reason = _error_decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = body[: 4 * _SHOWN].decode(errors="replace")
    return reason[:_SHOWN] or "no reason given"
