"""What the generated OpenAPI page says beyond the types: errors, credentials, examples."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPBearer

from serving_gateway.contract import ErrorResponse
from serving_gateway.errors import GatewayError

Responses = dict[int | str, dict[str, Any]]

CONTROL_TOKEN: Final = Security(
    HTTPBearer(
        scheme_name="control",
        description="A control token: the configured one, or that of the file control-token.",
        auto_error=False,
    )
)
API_KEY: Final = Security(
    APIKeyHeader(
        name="X-API-Key",
        scheme_name="api_key",
        description="One of GATEWAY_API_KEYS, where there are any. 'Authorization: Bearer' takes "
        "a key or a control token instead.",
        auto_error=False,
    )
)
KEY_IS_OPTIONAL: Final[dict[str, Any]] = {"security": [{}]}
"""In addition to `API_KEY`: a gateway without keys needs none."""

_ERRORS: Final = {500: "A bug in the gateway."} | {
    kind.status: kind.__doc__ for kind in GatewayError.__subclasses__()
}
READ_ERRORS: Final = (400, 401, 403, 404, 405, 422, 431, 500, 502, 503, 504)

TAGS: Final = [
    {"name": "data", "description": "Predictions: as rows, or by the Open Inference Protocol."},
    {"name": "health", "description": "What probers ask; no key is needed."},
    {"name": "state", "description": "What is in production, and how it does."},
    {"name": "control", "description": "Changes of what is served; each needs a control token."},
]
"""The groups of the page, in their order."""
BINARY: Final = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}
"""The JSON part followed by tensors, as Inference-Header-Content-Length says."""


def errors(*statuses: int) -> Responses:
    """The error responses of a route, by reference: a model would be built for each of them."""
    schema = {"schema": {"$ref": f"#/components/schemas/{ErrorResponse.__name__}"}}
    content = {"application/json": schema}
    return {
        status: {"description": _ERRORS[status], "content": content} for status in sorted(statuses)
    }
