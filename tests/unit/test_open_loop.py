"""The open loop: fixed send times, latency from the scheduled time, every failure counted."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.benchmarks.latency import percentile, send_times, summarize_ms
from tests.benchmarks.open_loop import OpenLoop, PreciseWait
from tests.support.servers import LOOPBACK

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


def test_requests_are_due_at_even_intervals() -> None:
    assert send_times(4, 1) == [0.0, 0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="not a load"):
        send_times(0, 1)


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0.05, 1)]
)
def test_percentiles_are_nearest_ranks(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 1001)], percent) == expected


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="of 0 values"):
        percentile([], 50)
    assert summarize_ms([0.002, 0.001]) == {"p50": 1.0, "p99": 2.0, "p99.9": 2.0, "max": 2.0}


@contextlib.contextmanager
def answering(reply: Callable[[int], bytes | None]) -> Iterator[str]:
    """A server that replies to the n-th request of its life; None ends the connection."""
    lock, seen = threading.Lock(), [0]

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65_536):
                with lock:
                    number, seen[0] = seen[0], seen[0] + 1
                    answer = reply(number)
                if answer is None:
                    return
                # In two pieces, as a network may deliver it.
                connection.sendall(answer[:20])
                connection.sendall(answer[20:])

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}/predict"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_every_request_is_answered_at_its_time() -> None:
    with answering(lambda _: OK) as url:
        result = OpenLoop(url, b"{}", connections=4).run(send_times(200, 0.5))
    summary = result.summary()
    assert (summary["answered"], summary["failed"]) == (100, 0)
    assert result.seconds >= 0.49
    assert len(result.lags) == 100


def test_a_stall_delays_all_requests_that_were_due_meanwhile() -> None:
    stall = 0.4

    def reply(number: int) -> bytes:
        if number == 10:
            time.sleep(stall)  # holds the lock, so that all other connections stall too
        return OK

    with answering(reply) as url:
        result = OpenLoop(url, b"{}", connections=2).run(send_times(100, 1.0))
    slow = [latency for latency in result.latencies if latency > stall / 2]
    # 40 were due during the stall, 20 of them in its first half; a closed loop on these two
    # connections would have seen two slow answers.
    assert len(slow) >= 15
    assert len(result.latencies) == 100


def test_refusals_and_lost_connections_are_failures() -> None:
    replies = {3: REFUSED, 5: None}
    with answering(lambda number: replies.get(number, OK)) as url:
        result = OpenLoop(url, b"{}", connections=1).run(send_times(100, 0.2))
    assert result.failures["status 503"] == 1
    assert sum(result.failures.values()) == 2
    assert len(result.latencies) == 18


def test_the_load_runs_in_a_process_with_more_descriptors_than_select_takes() -> None:
    with contextlib.ExitStack() as stack, answering(lambda _: OK) as url:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # 1,024 for an ordinary user
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1_100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        result = OpenLoop(url, b"{}", connections=2).run(send_times(100, 0.1))
    assert (len(result.latencies), result.failures) == (10, {})


def test_a_wait_of_less_than_a_millisecond_is_not_rounded_up() -> None:
    seconds = 0.0003
    with select.epoll() as silent:
        waiting = PreciseWait(silent.fileno())
        took = []
        for _ in range(200):
            began = time.monotonic()
            waiting.wait(seconds)
            took.append(time.monotonic() - began)
    # The shortest: a busy machine delays the others.
    assert seconds <= min(took) < 0.0009
