"""Body of every response that is not a success."""

from __future__ import annotations

from collections.abc import Mapping

from serving_gateway.contract.struct import Struct


class ErrorResponse(Struct, frozen=True, omit_defaults=True):
    """Body of every answer that is not a success."""

    status: str
    code: str
    error: str
    request_id: str | None = None
    field: str | None = None
    retry_after: int | None = None
    still_served: Mapping[str, int] | None = None
    """Versions by variant that the gateway goes on routing to."""
