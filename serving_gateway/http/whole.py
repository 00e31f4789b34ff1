"""Writes a whole answer at once, past the two messages in which ASGI wants it told.

The server writes head and body apart, and its event loop hands each to the kernel at once: two
system calls, two packets, and two reads for the client, about a tenth of what a prediction
costs. Everything else about the exchange (keeping the connection, the next request on it) stays
the server's.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


async def write_whole(
    send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> bool:
    """Send an answer whose every header is ours and safe; return False when nothing was done.

    That is so for another server's `send`, and for HEAD, whose answer has no body.

    Args:
        send: the application's `send`.
        status: HTTP status.
        body: the whole body.
        headers: names in lower case; `content-length` among them.
    """
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle or cycle.response_started:
        return False
    if cycle.scope["method"] == "HEAD":
        return False
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return True
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    parts = [_STATUS_LINES[status]]
    for name, value in (*cycle.default_headers, *headers):
        if name == b"connection":  # ours is never anything but `close`
            cycle.keep_alive = False
        else:
            parts += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        parts.append(b"connection: close\r\n")
    parts += (b"\r\n", body)
    cycle.transport.write(b"".join(parts))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
