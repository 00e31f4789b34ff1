"""Translate the exceptions of Triton's client libraries."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any, Final

from platform_assets.resources.triton_api import (
    TritonAnswerError,
    TritonError,
    TritonLocked,
    TritonRefused,
    TritonUnreachable,
)

# gRPC's counterparts of HTTP status codes; anything else is a failure of Triton itself.
_GRPC_STATUS: Final = {
    "StatusCode.INVALID_ARGUMENT": 400,
    "StatusCode.PERMISSION_DENIED": 403,
    "StatusCode.UNAUTHENTICATED": 403,
    "StatusCode.NOT_FOUND": 404,
    "StatusCode.ALREADY_EXISTS": 409,
    "StatusCode.CANCELLED": 503,
    "StatusCode.UNAVAILABLE": 503,
    "StatusCode.DEADLINE_EXCEEDED": 504,
}
_DOWN: Final = "is it running? What it served before it serves again when it is back"
_STRANGER: Final = "check that the address is Triton's HTTP port"


@contextlib.contextmanager
def translate_triton_errors(url: str, doing: str, timeout_s: float) -> Iterator[None]:
    """Translate the client libraries' exceptions in the block to `TritonError`.

    The message says: could not `doing`, at `url`, within `timeout_s` seconds.
    """
    from geventhttpclient.response import HTTPParseError
    from tritonclient.utils import InferenceServerException

    failed = f"could not {doing}: Triton at {url}"
    try:
        yield
    except TritonError:
        raise
    except TimeoutError as error:
        message = f"{failed} gave no answer within {timeout_s:g} s; {_DOWN}"
        raise TritonUnreachable(message) from error
    except HTTPParseError as error:
        # Raised by the library for a broken connection and for an answer that is not HTTP.
        raise TritonUnreachable(
            f"{failed} broke off its answer or does not speak HTTP ({error}); {_DOWN}, and "
            f"{_STRANGER}"
        ) from error
    # The HTTP pool raises RuntimeError if a name does not resolve or a proxy refuses.
    except (OSError, RuntimeError) as error:
        raise TritonUnreachable(f"{failed} cannot be reached ({error}); {_DOWN}") from error
    except InferenceServerException as error:
        raise _refusal(failed, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise TritonAnswerError(
            f"{failed} gave an answer that is not Triton's ({error!r}); {_STRANGER}"
        ) from error


def _refusal(failed: str, error: Any) -> TritonError:
    reason = str(error.message())
    status = error.status()
    if status is None:
        # Raised by the client library itself, before anything was sent.
        return TritonAnswerError(f"{failed} was not asked: {reason}")
    # For a locked protocol gRPC returns UNAVAILABLE; only its text says that a header is missing.
    locked = "protocol is restricted" in reason
    if locked:
        code = 403
    elif status.startswith("StatusCode."):
        code = _GRPC_STATUS.get(status, 500)
    else:
        code = int(status)
    if code == 403:
        return TritonLocked(
            f"{failed} wants its control key ({reason}): give the key that this Triton was "
            "started with as TRITON_CONTROL_KEY",
            status=code,
            reason=reason,
        )
    if code in (502, 503, 504):
        return TritonUnreachable(f"{failed} is not available ({code}: {reason}); {_DOWN}")
    return TritonRefused(f"{failed} refused ({code}): {reason}", status=code, reason=reason)
