"""What all client connections of a process share: limits, and the answers beyond them."""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

from serving_gateway.batching import ByteBudget
from serving_gateway.errors import GatewayError, HeadTooLarge, Overloaded, RequestTimeout, TooLarge
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.http.request_head import Head, head_size
from serving_gateway.settings import Settings

_SWEEP_SECONDS: Final = 1.0
_KEPT_DESCRIPTORS: Final = 256
"""File descriptors reserved for Triton, the stores and files; at most half of all."""


class ConnectionPolicy:
    """Limits of all connections.

    `budget` bounds the bytes of all clients' unfinished bodies. What a refused client still sends
    is read and dropped for `linger_seconds`, so that it sees the refusal instead of a reset. Beyond
    `max_connections` a new client replaces an idle one, or is refused, so that clients never take
    all file descriptors.
    """

    def __init__(self, endpoint: InferenceEndpoint, settings: Settings) -> None:
        self.endpoint = endpoint
        self.budget = ByteBudget(settings.max_pending_bytes)
        self.settings = settings
        self.linger_seconds = 5.0
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = 2**20 if limit == resource.RLIM_INFINITY else limit
        self.max_connections = max(limit // 2, limit - _KEPT_DESCRIPTORS)
        self.connections: set[Any] = set()

    async def sweep(self) -> None:
        """End overdue connections, until cancelled: one coarse timer for all connections."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in [*self.connections]:
                connection.enforce_timeouts(now)

    def head_too_large(self) -> HeadTooLarge:
        """The refusal of a head over its limit."""
        return HeadTooLarge(
            f"The target and headers are over {self.settings.max_head_bytes} bytes, the most taken."
        )

    def body_too_large(self) -> TooLarge:
        """The refusal of a body over its limit."""
        return TooLarge(
            f"The body is over {self.settings.max_body_bytes} bytes, the most that is taken."
        )


class IncompleteMessages:
    """The parts that a connection has received of messages that are not complete.

    `since` is when the oldest part came, in event loop time; 0 when all are complete. `head_bytes`
    counts the bytes of a head, or of trailers, received so far.
    """

    __slots__ = ("_held", "_policy", "head_bytes", "since")

    def __init__(self, policy: ConnectionPolicy) -> None:
        self._policy = policy
        self._held = 0
        self.head_bytes = 0
        self.since = 0.0

    def add(self, size: int, head: Head | None, now: float) -> GatewayError | None:
        """Count a read of `size` bytes that ended within a head or, without one, a body."""
        policy = self._policy
        self.since = self.since or now
        if head is not None:
            # Where the head began in this read, its other bytes belong to something else.
            self.head_bytes += size if self.head_bytes else head_size(*head)
            return (
                policy.head_too_large()
                if self.head_bytes > policy.settings.max_head_bytes
                else None
            )
        if policy.budget.take(size):
            self._held += size
            return None
        return Overloaded(
            f"Unfinished requests hold {policy.budget.held} bytes, as many as they may "
            "(GATEWAY_MAX_PENDING_BYTES). Try again.",
            code="too_many_bytes",
        )

    def check_timeout(self, now: float, *, in_head: bool) -> RequestTimeout | None:
        """The refusal of a request that takes too long to arrive; None within the limit."""
        limits = self._policy.settings
        part, limit = ("head", limits.head_seconds) if in_head else ("body", limits.body_seconds)
        if now - self.since <= limit:
            return None
        return RequestTimeout(f"The {part} of the request was not complete within {limit:g} s.")

    def end(self) -> None:
        """Release all bytes: the messages are complete, or no longer needed."""
        self._policy.budget.release(self._held)
        self._held = self.head_bytes = 0
        self.since = 0.0
