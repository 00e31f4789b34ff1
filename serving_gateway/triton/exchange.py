"""One HTTP exchange with a server, and the ways in which it can end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_gateway.errors import GatewayError, TritonUnavailable

if TYPE_CHECKING:
    from serving_gateway.triton.connection import Connection


class ConnectFailed(TritonUnavailable):
    """No connection could be opened."""


class ConnectionLost(TritonUnavailable):
    """The connection ended before the response was complete.

    Args:
        url: of the server.
        why: it ended.
        unread: whether the server cannot have read the whole request: it reset the connection
            with bytes unread, or its kernel never acknowledged them.
        answered: whether a part of the response had arrived.
        kept: whether the connection had carried another exchange before.
        seconds: time since the request was written.
    """

    def __init__(
        self,
        url: str,
        why: str,
        *,
        unread: bool,
        answered: bool = False,
        kept: bool = False,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(f"Triton at {url} closed the connection: {why}.")
        self.answered = answered
        self.unread = unread
        self.kept = kept
        self.seconds = seconds


class TritonResponse:
    """A complete HTTP response."""

    __slots__ = ("body", "inference_header_length", "status")

    def __init__(self, status: int, inference_header_length: int | None, body: bytes) -> None:
        self.status = status
        self.inference_header_length = inference_header_length
        self.body = body


class Exchange:
    """One request under way; subclasses say what its end means."""

    __slots__ = ("connection", "is_abandoned", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.connection: Connection | None = None
        self.is_abandoned = False

    def on_response(self, response: TritonResponse) -> None:
        """Called with the complete response."""
        raise NotImplementedError

    def on_failure(self, error: GatewayError) -> None:
        """Called when there will be no response."""
        raise NotImplementedError

    def drop(self) -> None:
        """Have no callback any more; a connection in use cannot be used again and is closed."""
        self.is_abandoned = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
