"""The OpenAPI page: `/predict` and the bodies are described by hand, from the same types."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from serving_gateway.contract import (
    ErrorResponse,
    HealthStatus,
    ModelStatus,
    PredictRequest,
    PredictResponse,
    ReadyStatus,
    ReloadRequest,
    ReloadResponse,
    RollbackRequest,
    ShadowReport,
    TrafficRequest,
    TrafficResponse,
)

_TYPES: Final = (
    ErrorResponse,
    HealthStatus,
    ModelStatus,
    PredictResponse,
    PredictRequest,
    ReadyStatus,
    ReloadResponse,
    ReloadRequest,
    RollbackRequest,
    ShadowReport,
    TrafficResponse,
    TrafficRequest,
)

_MODEL_NAME: Final = {
    "name": "model_name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
}

ERRORS: Final = {
    400: "The body is no JSON.",
    401: "The bearer token or API key is missing or wrong.",
    403: "Control calls are accepted from this host only.",
    404: "Unknown variant, version or path.",
    405: "The path does not have this method.",
    409: "Refused because of the present state; nothing changed.",
    413: "The body or the batch is too large.",
    431: "The target and headers are too large.",
    415: "The body is not declared as JSON.",
    422: "A wrong value; `field` says where.",
    500: "A bug in the gateway.",
    502: "Triton's answer could not be passed on.",
    503: "Not available now; `Retry-After` says when to ask again.",
    504: "Triton did not answer in time.",
}


def components() -> dict[str, Any]:
    """JSON schemas of all bodies, by type name."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return schemas


def body_of(kind: type) -> dict[str, Any]:
    """A JSON body of the given type."""
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"content": {"application/json": {"schema": reference}}}


def responses(success: type, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The answers of an endpoint."""
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Success.", **body_of(success)}}
    for status in errors:
        found[status] = {"description": ERRORS[status], **body_of(ErrorResponse)}
    return found


def predict_path(*, named: bool = False) -> dict[str, Any]:
    """`/predict`, which FastAPI does not route and so cannot describe.

    Args:
        named: whether the path names the model.
    """
    row_of_iris = [5.1, 3.5, 1.4, 0.2]
    body = body_of(PredictRequest)
    body["content"]["application/json"]["examples"] = {
        "rows": {"value": {"data": [row_of_iris], "client_id": "customer-17"}},
    }
    statuses = (400, 401, 404, 405, 413, 415, 422, 431, 500, 502, 503, 504)
    return {
        "post": {
            "operationId": "predict_by_model" if named else "predict",
            "tags": ["data"],
            "summary": "Predict by the version that is effective for the client.",
            "description": (
                "Send rows as `data`, in the order of the model's features, or as `instances`, "
                "by feature name. The answer names the variant, version and run that made it. "
                "`client_id` keeps a client on its variant while traffic is split."
            ),
            "parameters": [_MODEL_NAME] if named else [],
            "requestBody": {"required": True, **body},
            "security": [{}, {"api_key": []}],
            "responses": {
                str(status): described
                for status, described in responses(PredictResponse, *statuses).items()
            },
        }
    }
