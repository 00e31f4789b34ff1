"""Names shared by Triton's clients and its launcher: locked APIs, records, errors.

Standard library only: the launcher of Triton imports it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CONTROL_HEADER: Final = "triton-control-key"
"""HTTP header that opens Triton's locked APIs; gRPC metadata calls it
`triton-grpc-protocol-triton-control-key`."""

LOCKED_APIS: Final = ("model-repository", "model-config", "shared-memory", "logging", "trace")
"""APIs that change what is served, or let a client read or write beside it. Health, metadata,
inference and statistics stay open: the gateway needs them and never holds the key."""

READY: Final = "READY"
UNAVAILABLE: Final = "UNAVAILABLE"


class TritonError(Exception):
    """Base class of all errors in calls to a Triton server."""


class TritonUnreachable(TritonError):
    """No answer: nothing listens, the connection broke, or the call timed out."""


class TritonRefused(TritonError):
    """Triton refused; `status` is the HTTP status, `reason` Triton's own words."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class TritonLocked(TritonRefused):
    """The control key is missing, or not the one that this Triton was started with."""


class TritonAnswerError(TritonError):
    """The answer does not fit the request, or is not Triton's."""


class VersionMismatch(TritonAnswerError):
    """A version other than the requested one answered."""


class TritonNotReady(TritonError):
    """The version did not become READY in time; the message holds Triton's reason."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index."""

    name: str
    version: int | None
    """Version; None for a model that was never loaded."""
    state: str
    """`READY`, `LOADING`, `UNLOADING`, `UNAVAILABLE`, or empty for a model never loaded."""
    reason: str
    """Why it is not READY, in Triton's words; empty otherwise."""
