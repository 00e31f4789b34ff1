"""Limits the head of a request, which the server's own parser would read without end."""

from __future__ import annotations

from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving_gateway.errors import GatewayError, HeadTooLarge, MalformedRequest, error_response


class HeaderLimitProtocol(HttpToolsProtocol):
    """A connection whose requests have heads (target and headers) and trailers of limited size.

    The limit is the server's `h11_max_incomplete_event_size`, which for the other parser means
    just that.
    """

    _in_head = False
    """Whether what comes next belongs to a head, or to trailers after the chunks of a body."""
    _began = False
    """Whether that began in the present read, whose other bytes belong to something else."""
    _seen = 0
    """Bytes of an unfinished head or trailers that came in earlier reads."""
    _head_is_over = False
    _large_read = False
    _refusal: GatewayError | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        limit = self.config.h11_max_incomplete_event_size
        assert limit is not None  # noqa: S101 -- `server.serve` sets it
        self._limit = limit

    def data_received(self, data: bytes) -> None:
        """Read on; end the connection when a head does not end within the limit."""
        if self._refusal is not None:
            return
        # Only a head that came in pieces, or in a read beyond the limit, has to be measured.
        self._large_read = len(data) > self._limit
        super().data_received(data)
        if not self._in_head:
            return
        self._seen += self._size() if self._began else len(data)
        self._began = False
        if self._seen > self._limit and self._refusal is None:
            self._refusal = self._too_large()
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = self._began = True
        self._head_is_over = False
        self._seen = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; nobody reads trailers."""
        if not self._head_is_over:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk begins: its bytes or, after the last one, trailers."""
        self._in_head = self._began = True
        self._seen = 0

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._in_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request ends."""
        self._in_head = False
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        """The head ends.

        Raises:
            HeadTooLarge: it is over the limit; the parser hands on that it was stopped.
        """
        self._in_head = False
        self._head_is_over = True
        if (self._seen or self._large_read) and self._size() > self._limit:
            self._refusal = self._too_large()
            raise self._refusal
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and end the connection.

        While an earlier request on it is being answered nothing is said: it would be taken for
        that answer.
        """
        cycle: Any = self.cycle  # None before the first request, whatever its type says
        if cycle is not None and not cycle.response_complete:
            self.transport.close()
            return
        error = self._refusal or MalformedRequest(msg or "That is no HTTP request.")
        body = msgspec.json.encode(error_response(error, request_id=None, still_served=None))
        reason = "Request Header Fields Too Large" if error.status == 431 else "Bad Request"
        head = (
            f"HTTP/1.1 {error.status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"The target and headers of the request are over {self._limit} bytes, the most taken."
        )
