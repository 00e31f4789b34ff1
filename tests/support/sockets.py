"""HTTP by the byte, for what no client sends."""

from __future__ import annotations

import contextlib
import socket


def exchange(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send the parts one by one, then read until the server closes the connection."""
    with socket.create_connection(address, 10) as client:
        with contextlib.suppress(OSError):  # it may close before all is sent
            for part in parts:
                client.sendall(part)
        found = b""
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                found += data
        return found
