"""Stands between gateway and Triton, and keeps what the gateway sends."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.support.servers import LOOPBACK, RunningTriton


class Recorder(socketserver.ThreadingTCPServer):
    """Passes connections on to Triton, and keeps the bytes that the gateway sends."""

    daemon_threads = True

    def __init__(self, triton: RunningTriton) -> None:
        address = urlsplit(triton.http_url)
        self.onward = (str(address.hostname), address.port or 0)
        self.sent = bytearray()
        super().__init__((LOOPBACK, 0), RelayedConnection)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}"


class RelayedConnection(socketserver.BaseRequestHandler):
    """One connection of a `Recorder`; it ends when either side does."""

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Recorder)
        with socket.create_connection(server.onward) as triton:
            back = threading.Thread(target=copy, args=(triton, self.request, bytearray()))
            back.start()
            copy(self.request, triton, server.sent)
            back.join()


def copy(source: socket.socket, target: socket.socket, seen: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            seen += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def run_recorder(triton: RunningTriton) -> Iterator[Recorder]:
    """A recorder in front of a Triton, in a thread."""
    with Recorder(triton) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
