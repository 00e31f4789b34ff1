"""`python -m tests.benchmarks.open_loop`: a load whose send times are decided beforehand.

A closed loop sends less while the server stalls, and so leaves out the requests that would have
waited (coordinated omission). Here each request has its time, and its latency counts from then,
also while it waits for a free connection. Plain non-blocking sockets on epoll and prepared bytes
cost less per request than asyncio; the report says what it was.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import select
import socket
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.latency import send_times, summarize_ms

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_READ_BYTES = 65_536
_LEAD_SECONDS = 0.05
_WAIT_SECONDS = 10.0
"""How long the last answers are waited for; a request without one by then has failed."""


def post(url: str, body: bytes) -> bytes:
    """The bytes of a POST of JSON."""
    address = urlsplit(url)
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class OpenLoopResult:
    """Outcome of a run; all times in seconds."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    """From the scheduled time to the complete answer, of the requests answered with 200."""
    lags: array[float] = field(default_factory=lambda: array("d"))
    """By which a request was sent after its time."""
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """The figures, for a report."""
        answered = len(self.latencies)
        return {
            "answered": answered,
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures),
            "per_second": round(answered / self.seconds, 1),
            "latency_ms": summarize_ms(self.latencies) if answered else {},
            "send_lag_ms": summarize_ms(self.lags) if self.lags else {},
            "generator_cpu_us": round(self.cpu_seconds / max(len(self.lags), 1) * 1e6, 1),
        }


class _TimeSpec(ctypes.Structure):
    """The kernel's `struct timespec`."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _PollEntry(ctypes.Structure):
    """The kernel's `struct pollfd`."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class PreciseWait:
    """Waits for a descriptor to become readable, for times that are not whole milliseconds.

    Python's `poll` and `epoll` round the time up to a millisecond, and its `select` refuses
    descriptors from 1,024 on.
    """

    def __init__(self, descriptor: int) -> None:
        self._entry = _PollEntry(descriptor, select.POLLIN, 0)
        self._time = _TimeSpec()
        self._ppoll = ctypes.CDLL(None).ppoll
        self._arguments = (ctypes.byref(self._entry), 1, ctypes.byref(self._time), None)

    def wait(self, seconds: float) -> None:
        """Return when the descriptor is readable, the time is over or a signal came."""
        whole = int(seconds)
        self._time.seconds = whole
        self._time.nanoseconds = int((seconds - whole) * 1e9)
        self._ppoll(*self._arguments)


class _Connection:
    """One kept connection with at most one request under way."""

    __slots__ = ("buffer", "due", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.due: float | None = None
        """Scheduled time of the request under way."""

    def receive(self) -> int | None:
        """Read; the status once the answer is complete, else None.

        Raises:
            OSError: the connection is gone.
        """
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError("closed by the server")
        self.buffer = buffer = self.buffer + data if self.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = _LENGTH.search(buffer, 0, end)
        if length is None:
            raise ConnectionResetError("an answer without a length")
        if len(buffer) < end + 4 + int(length[1]):
            return None
        self.buffer = b""
        return int(buffer[9:12])


class OpenLoop:
    """Sends one prepared request again and again, at given times.

    Args:
        url: of the endpoint.
        body: JSON.
        connections: most requests under way at one time; further ones wait, which counts as
            latency.
    """

    def __init__(self, url: str, body: bytes, connections: int = 64) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._address = (address.hostname, address.port or 80)
        self._request = post(url, body)
        self._size = connections
        self._poll = select.epoll()
        self._wait = PreciseWait(self._poll.fileno())
        self._by_descriptor: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        self._result = OpenLoopResult()
        self._start = 0.0

    def run(self, times: Sequence[float]) -> OpenLoopResult:
        """Send at these times (seconds from now, ascending) and wait for all answers.

        Raises:
            OSError: no connection can be opened at the start.
        """
        for _ in range(self._size):
            self._open()
        cpu = time.process_time()
        self._start = time.monotonic() + _LEAD_SECONDS
        try:
            self._send_all(times)
            self._wait_for_answers()
        finally:
            for connection in self._by_descriptor.values():
                connection.socket.close()
            self._poll.close()
        self._result.seconds = time.monotonic() - self._start
        self._result.cpu_seconds = time.process_time() - cpu
        return self._result

    def _send_all(self, times: Sequence[float]) -> None:
        number, total = 0, len(times)
        while number < total:
            now = time.monotonic() - self._start
            while number < total and times[number] <= now:
                self._waiting.append(times[number])
                number += 1
            self._send_waiting()
            if number < total:
                self._receive(times[number] - (time.monotonic() - self._start))

    def _wait_for_answers(self) -> None:
        give_up = time.monotonic() + _WAIT_SECONDS
        while self._busy() and time.monotonic() < give_up:
            self._receive(0.1)
            self._send_waiting()
        if left := self._busy():
            self._result.failures["no answer"] += left

    def _busy(self) -> int:
        under_way = sum(one.due is not None for one in self._by_descriptor.values())
        return under_way + len(self._waiting)

    def _send_waiting(self) -> None:
        while self._waiting:
            while len(self._by_descriptor) < self._size and not self._idle:
                try:
                    self._open()
                except OSError:
                    self._waiting.popleft()
                    self._result.failures["not connected"] += 1
                    break
            if not self._idle:
                return
            self._send(self._idle.popleft(), self._waiting.popleft())

    def _open(self) -> None:
        connection = _Connection(self._address)
        descriptor = connection.socket.fileno()
        self._by_descriptor[descriptor] = connection
        self._poll.register(descriptor, select.EPOLLIN)
        self._idle.append(connection)

    def _send(self, connection: _Connection, due: float) -> None:
        connection.due = due
        try:
            sent = connection.socket.send(self._request)
        except OSError as error:
            self._lose(connection, error)
            return
        if sent < len(self._request):
            self._lose(connection, OSError("the request did not fit into the socket"))
            return
        self._result.lags.append(time.monotonic() - self._start - due)

    def _receive(self, seconds: float) -> None:
        if seconds > 0:
            self._wait.wait(seconds)
        for descriptor, _ in self._poll.poll(0):
            connection = self._by_descriptor[descriptor]
            try:
                status = connection.receive()
            except OSError as error:
                self._lose(connection, error)
                continue
            if status is not None:
                self._finish(connection, status)

    def _finish(self, connection: _Connection, status: int) -> None:
        due, connection.due = connection.due, None
        if due is None:
            self._lose(connection, OSError("an answer without a request"))
            return
        if status == 200:
            self._result.latencies.append(time.monotonic() - self._start - due)
        else:
            self._result.failures[f"status {status}"] += 1
        self._idle.append(connection)

    def _lose(self, connection: _Connection, error: OSError) -> None:
        if connection.due is not None:
            self._result.failures[f"connection: {error}"] += 1
        else:
            self._idle.remove(connection)
        descriptor = connection.socket.fileno()
        self._poll.unregister(descriptor)
        del self._by_descriptor[descriptor]
        connection.socket.close()


def _wake_on_time() -> None:
    """Have the kernel end a wait when it is due, not up to 50 µs later to save power."""
    set_timer_slack = 29
    ctypes.CDLL(None).prctl(set_timer_slack, 1_000, 0, 0, 0)


def main() -> int:
    """Run it once and print the figures as JSON; exit code 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.open_loop")
    parser.add_argument("url")
    parser.add_argument("--body", default='{"data":[[5.1,3.5,1.4,0.2]],"client_id":"customer-17"}')
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    times = send_times(arguments.rate, arguments.seconds)
    gc.disable()
    _wake_on_time()
    loop = OpenLoop(arguments.url, arguments.body.encode(), arguments.connections)
    result = loop.run(times)
    sys.stdout.write(json.dumps(result.summary()) + "\n")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
