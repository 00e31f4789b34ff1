"""One root for everything that the gateway refuses or cannot do.

Each error knows its HTTP status, a stable code for programs and a sentence for people. What is
still served is added where the answer is written, for every error alike.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Root of all errors that are answered to a caller.

    A class's keywords are its HTTP status, its code and the seconds after which a retry makes
    sense; omitted ones are inherited. `message` says what happened and what to do; `code` is for
    programs; `field` is the path of the offending value, such as `data[3][1]`.
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"
    default_retry_after: ClassVar[int | None] = None

    def __init_subclass__(
        cls, *, status: int | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init_subclass__()
        cls.status = status or cls.status
        cls.default_code = code or cls.default_code
        cls.default_retry_after = retry_after or cls.default_retry_after

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


class MalformedRequest(GatewayError, status=400, code="malformed_body"):
    """The body cannot be read at all."""


class Unauthenticated(GatewayError, status=401, code="unauthenticated"):
    """A call without the token or key that it needs."""


class Forbidden(GatewayError, status=403, code="forbidden"):
    """A call with a Host or Origin that is not the gateway's own."""


class NotFound(GatewayError, status=404, code="not_found"):
    """An unknown path, variant, model or version."""


class MethodNotAllowed(GatewayError, status=405, code="method_not_allowed"):
    """A known path with a method that it does not have; the header `allow` names an allowed one."""

    def __init__(self, message: str, *, allow: str = "GET") -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeout(GatewayError, status=408, code="request_timeout"):
    """A request that did not arrive completely in time."""


class Conflict(GatewayError, status=409, code="conflict"):
    """The present state does not allow the change; nothing changed."""


class VersionNotReady(Conflict, code="version_not_ready"):
    """The version is not READY in Triton, asked at this moment."""


class GenerationConflict(Conflict, code="generation_conflict"):
    """Another call changed the routing record first."""


class TooLarge(GatewayError, status=413, code="body_too_large"):
    """A body or a batch over its limit."""


class UnsupportedMediaType(GatewayError, status=415, code="unsupported_media_type"):
    """A content type that the endpoint does not accept."""


class InvalidInput(GatewayError, status=422, code="invalid_input"):
    """A readable body with a wrong value; `field` says where."""


class HeadTooLarge(GatewayError, status=431, code="head_too_large"):
    """The target and headers of a request over their limit."""


class EntityUnusable(InvalidInput, code="unusable_entity"):
    """An entity without usable values in the feature store, and without a row to use instead."""


class BadUpstreamAnswer(GatewayError, status=502, code="bad_triton_answer"):
    """Triton's answer is invalid and was not passed on."""


class Unavailable(GatewayError, status=503, code="unavailable", retry_after=1):
    """Something that the call needs is not available now; `Retry-After` says when to try again."""


class TritonUnavailable(Unavailable, code="triton_unavailable"):
    """Triton cannot be reached, or lost the connection."""


class VariantUnavailable(Unavailable, code="variant_unavailable"):
    """The variant has no version, or Triton does not have that version READY."""


class ReplicaBehind(Unavailable, code="replica_behind"):
    """This replica routes by an older generation than the request asks for (`x-min-generation`)."""


class StoreUnavailable(Unavailable, code="store_unavailable"):
    """The routing store cannot be read or written."""


class RecordRefused(StoreUnavailable, code="record_refused"):
    """The stored routing record is corrupt or of a newer schema."""


class RegistryUnavailable(Unavailable, code="registry_unavailable"):
    """MLflow cannot be reached, or does not answer as it should."""


class FeaturesUnavailable(Unavailable, code="features_unavailable"):
    """The online feature store cannot be reached, or does not answer in time."""


class Overloaded(Unavailable, code="overloaded"):
    """Too many requests are waiting already."""


class DeadlineExceeded(GatewayError, status=504, code="deadline_exceeded", retry_after=1):
    """Triton did not answer in time."""


class InferenceRefused(InvalidInput, code="refused_by_model"):
    """Triton refused an inference as a bad request."""


class ClientGone(Exception):
    """The client closed the connection; nothing can be answered."""


def printable(text: str, limit: int = 2_000) -> str:
    """At most `limit` characters of a text, with lone surrogates written as escapes."""
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return cut.encode("utf-8", "backslashreplace").decode()
