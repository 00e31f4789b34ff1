"""What all client connections of a process share: limits, and what is answered beyond them."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from serving_gateway.batching import ByteBudget
from serving_gateway.errors import HeadTooLarge, Overloaded, RequestTimeout, TooLarge
from serving_gateway.http.inference_endpoint import InferenceEndpoint
from serving_gateway.settings import Settings

_SWEEP_SECONDS: Final = 1.0


class TimedConnection(Protocol):
    """A connection that is looked at every second."""

    def enforce_timeouts(self, now: float) -> None:
        """End what is overdue at this time of the event loop."""


class ConnectionPolicy:
    """Limits of all connections.

    Attributes:
        budget: bytes of bodies that are not complete, of all clients.
        linger_seconds: how long what a refused client still sends is read and dropped, so that
            it sees the refusal instead of a reset.
    """

    def __init__(self, endpoint: InferenceEndpoint, settings: Settings) -> None:
        self.endpoint = endpoint
        self.budget = ByteBudget(settings.max_pending_bytes)
        self.max_head_bytes = settings.max_head_bytes
        self.max_body_bytes = settings.max_body_bytes
        self.head_seconds = settings.head_seconds
        self.body_seconds = settings.body_seconds
        """For receiving a request, and for a client to take a response."""
        self.keep_alive_seconds = settings.keep_alive_seconds
        self.linger_seconds = 5.0
        self.connections: set[TimedConnection] = set()

    async def sweep(self) -> None:
        """End what is overdue, until cancelled: one coarse timer for all connections."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in [*self.connections]:
                connection.enforce_timeouts(now)

    def head_too_large(self) -> HeadTooLarge:
        """The refusal of a head over its limit."""
        return HeadTooLarge(
            f"The target and headers of the request are over {self.max_head_bytes} bytes, the "
            "most taken."
        )

    def body_too_large(self) -> TooLarge:
        """The refusal of a body over its limit."""
        return TooLarge(f"The body is over {self.max_body_bytes} bytes, the most that is taken.")

    def too_many_bytes(self) -> Overloaded:
        """The refusal of a body that the budget has no room for."""
        return Overloaded(
            f"Unfinished requests hold {self.budget.held} bytes, as many as they may "
            "(GATEWAY_MAX_PENDING_BYTES). Try again.",
            code="too_many_bytes",
        )

    def timeout(self, seconds: float, *, in_head: bool) -> RequestTimeout | None:
        """The refusal of a request that has been coming for so long; None within the limit."""
        part, limit = ("head", self.head_seconds) if in_head else ("body", self.body_seconds)
        if seconds <= limit:
            return None
        return RequestTimeout(f"The {part} of the request was not complete within {limit:g} s.")
