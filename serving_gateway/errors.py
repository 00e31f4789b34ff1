"""One root for everything that the gateway refuses or cannot do.

Each error knows its HTTP status, a stable code for programs and a sentence for people. What is
still served is added where the answer is written, so that no raise site can forget it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from serving_gateway.contract import ErrorResponse


class GatewayError(Exception):
    """Root of all errors that are answered to a caller.

    Args:
        message: what happened and what to do, for a person.
        code: for programs, when one class covers several causes.
        field: path of the offending value in the request, such as `data[3][1]`.
        retry_after: seconds after which trying again makes sense.
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"
    default_retry_after: ClassVar[int | None] = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.field = field
        self.retry_after = self.default_retry_after if retry_after is None else retry_after


class MalformedRequest(GatewayError):
    """The body cannot be read at all (400)."""

    status = 400
    default_code = "malformed_body"


class Unauthenticated(GatewayError):
    """A call without the token or key that it needs (401)."""

    status = 401
    default_code = "unauthenticated"


class Forbidden(GatewayError):
    """A call with a Host or Origin that is not the gateway's own (403)."""

    status = 403
    default_code = "forbidden"


class NotFound(GatewayError):
    """An unknown path, variant, model or version (404)."""

    status = 404
    default_code = "not_found"


class MethodNotAllowed(GatewayError):
    """A known path with a method that it does not have (405); `allow` is one that it has."""

    status = 405
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str = "GET") -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeout(GatewayError):
    """A request that did not arrive completely in time (408)."""

    status = 408
    default_code = "request_timeout"


class Conflict(GatewayError):
    """The change is refused because of the present state (409); nothing changed."""

    status = 409
    default_code = "conflict"


class VersionNotReady(Conflict):
    """The version is not READY in Triton, asked at this moment."""

    default_code = "version_not_ready"


class GenerationConflict(Conflict):
    """The routing record was changed by another call first."""

    default_code = "generation_conflict"


class TooLarge(GatewayError):
    """A body or a batch over its limit (413)."""

    status = 413
    default_code = "body_too_large"


class UnsupportedMediaType(GatewayError):
    """A content type that the endpoint does not read (415)."""

    status = 415
    default_code = "unsupported_media_type"


class InvalidInput(GatewayError):
    """A readable body with a wrong value (422); `field` says where."""

    status = 422
    default_code = "invalid_input"


class HeadTooLarge(GatewayError):
    """The target and headers of a request over their limit (431)."""

    status = 431
    default_code = "head_too_large"


class EntityUnusable(InvalidInput):
    """An entity that the feature store has no usable values for, and no row to take instead."""

    default_code = "unusable_entity"


class BadUpstreamAnswer(GatewayError):
    """Triton answered something that must not be passed on (502)."""

    status = 502
    default_code = "bad_triton_answer"


class Unavailable(GatewayError):
    """Something the call needs is not there now (503)."""

    status = 503
    default_code = "unavailable"
    default_retry_after = 1


class TritonUnavailable(Unavailable):
    """Triton cannot be reached, or lost the connection."""

    default_code = "triton_unavailable"


class VariantUnavailable(Unavailable):
    """The variant has no version, or Triton does not have that version READY."""

    default_code = "variant_unavailable"


class StoreUnavailable(Unavailable):
    """The routing store cannot be read or written."""

    default_code = "store_unavailable"


class RecordRefused(StoreUnavailable):
    """The stored routing record is corrupt or of a newer schema."""

    default_code = "record_refused"


class RegistryUnavailable(Unavailable):
    """MLflow cannot be asked."""

    default_code = "registry_unavailable"


class FeaturesUnavailable(Unavailable):
    """The online feature store cannot be asked, or does not answer in time."""

    default_code = "features_unavailable"


class Overloaded(Unavailable):
    """Too many requests wait already."""

    default_code = "overloaded"


class DeadlineExceeded(GatewayError):
    """Triton did not answer in time (504)."""

    status = 504
    default_code = "deadline_exceeded"
    default_retry_after = 1


class InferenceRefused(InvalidInput):
    """Triton refused an inference; `upstream_status` is the HTTP status of its answer."""

    default_code = "refused_by_model"

    def __init__(self, message: str, *, upstream_status: int) -> None:
        super().__init__(message)
        self.upstream_status = upstream_status


class ClientGone(Exception):
    """The client closed the connection; nothing can be answered."""


def printable(text: str, limit: int = 2_000) -> str:
    """At most `limit` characters of a text, with lone surrogates written as escapes."""
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return cut.encode("utf-8", "backslashreplace").decode()


def error_response(
    error: GatewayError,
    *,
    request_id: str | None,
    still_served: Mapping[str, int] | None,
) -> ErrorResponse:
    """Describe `error` to the caller; what it echoes is bounded and always valid UTF-8."""
    return ErrorResponse(
        status="error",
        code=error.code,
        error=printable(error.message),
        request_id=request_id,
        field=None if error.field is None else printable(error.field, 500),
        retry_after=error.retry_after,
        still_served=still_served,
    )
