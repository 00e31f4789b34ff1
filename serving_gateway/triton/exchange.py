"""One HTTP exchange with a server, and the ways in which it can end."""

from __future__ import annotations

from typing import Protocol


class TransportError(Exception):
    """Root of what can go wrong below HTTP."""


class ConnectFailed(TransportError):
    """No connection could be opened."""


class TooManyConnections(TransportError):
    """As many connections are open as may be."""


class ConnectionLost(TransportError):
    """The connection ended before the response was complete.

    Attributes:
        answered: whether a part of the response had arrived.
        unread: whether the server cannot have read the whole request: it reset the connection
            with bytes unread, or its kernel never acknowledged them.
        kept: whether the connection had carried another exchange before.
        seconds: time since the request was written.
    """

    def __init__(
        self,
        message: str,
        *,
        answered: bool,
        unread: bool = False,
        kept: bool = False,
        seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.unread = unread
        self.kept = kept
        self.seconds = seconds


class ResponseTimeout(TransportError):
    """The response took too long."""


class MalformedResponse(TransportError):
    """What arrived is not HTTP, or is larger than any response may be."""


class TritonResponse:
    """A complete HTTP response."""

    __slots__ = ("body", "inference_header_length", "status")

    def __init__(self, status: int, inference_header_length: int | None, body: bytes) -> None:
        self.status = status
        self.inference_header_length = inference_header_length
        self.body = body


class Carrier(Protocol):
    """The connection that carries an exchange."""

    def close(self) -> None:
        """Close it; the exchange is forgotten."""


class Exchange:
    """One request under way; subclasses say what its end means."""

    __slots__ = ("connection", "is_abandoned", "request")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.connection: Carrier | None = None
        self.is_abandoned = False

    def on_response(self, response: TritonResponse) -> None:
        """Called with the complete response."""
        raise NotImplementedError

    def on_failure(self, error: TransportError) -> None:
        """Called when there will be no response."""
        raise NotImplementedError

    def drop(self) -> None:
        """Have no callback any more; a connection in use cannot be used again and is closed."""
        self.is_abandoned = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
