"""The code server ends, to be started again, once nothing has Dagster's definitions any more."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from platform_assets.local_stack import code_server

SERVER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
print("started", flush=True)
sys.stdin.read()
"""
LOOKS = 3


class Stopping(threading.Event):
    """Set, or something else happens, after a few looks."""

    def __init__(self, happens: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.looks = 0
        self.happens = happens or self.set

    def wait(self, timeout: float | None = None) -> bool:
        self.looks += 1
        if self.looks == LOOKS:
            self.happens()
        return super().wait(timeout)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """As Dagster's: it has a child, and does not notice its end."""
    monkeypatch.setattr(code_server, "_CHECK_EVERY_S", 0.02)
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        yield process


def test_definitions_are_lost_with_the_child_that_has_them(
    server: subprocess.Popen[bytes],
) -> None:
    (child,) = psutil.Process(server.pid).children()
    stopping = Stopping(child.kill)
    assert not code_server._watch(server, stopping)
    assert stopping.looks >= LOOKS
    assert server.poll() is None


def test_definitions_are_lost_with_the_server(server: subprocess.Popen[bytes]) -> None:
    assert not code_server._watch(server, Stopping(server.kill))


def test_request_to_stop_is_no_loss(server: subprocess.Popen[bytes]) -> None:
    assert code_server._watch(server, Stopping())


def test_child_that_ends_while_it_is_looked_at_is_gone() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        seen = psutil.Process(child.pid)
        assert code_server._is_alive(seen)
    assert not code_server._is_alive(seen)


def test_server_is_ended_where_the_watch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def fail(*_: object) -> bool:
        raise OSError("no such process")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(code_server, "_watch", fail)
    monkeypatch.setattr(subprocess, "Popen", lambda _: server)
    with pytest.raises(OSError, match="no such process"):
        code_server.main()
    assert server.returncode == -signal.SIGTERM
