"""What `make down` says while services stop; the lock and the calls that it asks by."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from platform_assets.local_stack import __main__ as cli
from platform_assets.local_stack.http import answers_ok, get
from platform_assets.local_stack.settings import stack_settings
from platform_assets.local_stack.stack import lock_state_dir, owner_pid

OWNER = """
import signal, subprocess, sys
from platform_assets.local_stack.settings import stack_settings
from platform_assets.local_stack.stack import lock_state_dir

def service(*argv):
    sleep = "import time; time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", sleep, "--", sys.executable, *argv])

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with lock_state_dir(stack_settings({"STATE_DIR": sys.argv[1]})):
    parts = [
        service("-m", "dagster._daemon", "run"),
        service("-m", "serving_gateway"),
        service("-m", "another_program"),
    ]
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    for part in parts:
        part.kill()
        part.wait()
"""


def test_make_down_names_each_service_as_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of pytest stay
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "ready\n"
            assert cli.main(["down"]) == 0
        finally:
            owner.kill()
    *stopped, end = capsys.readouterr().out.splitlines()
    assert sorted(stopped) == ["stopped dagster-daemon", "stopped gateway"]
    assert end == "Stopped. The state is kept; `make up` resumes it."


@pytest.mark.parametrize("command", ["status", "down", "chain", "up"])
def test_state_directory_that_cannot_be_used_is_named(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of pytest stay
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "file" / "state"))
    assert cli.main([command]) in {0, 1}  # nothing runs there
    if command == "up":
        said = capsys.readouterr().out
        assert "Name a STATE_DIR that this user may read and write" in said


def test_state_directory_that_is_refused_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "my state"))
    assert cli.main(["up"]) == 1
    assert "Nothing was started" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == []


def test_who_looks_at_a_stack_keeps_none_from_starting(tmp_path: Path) -> None:
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    with lock_state_dir(settings):
        pass
    with (settings.run_dir / "stack.pid").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (looking.fileno(), fcntl.LOCK_UN)).start()
        with lock_state_dir(settings):
            assert owner_pid(settings) is not None


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9"])
def test_answer_that_breaks_off_is_none(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"

        def half_an_answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        with _answering(half_an_answer), pytest.raises(OSError, match=r"."):
            get(url, dict)
        with _answering(half_an_answer):
            assert not answers_ok(url) or answer.startswith(b"HTTP/1.1 200 OK")


@contextmanager
def _answering(answer: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=answer)
    thread.start()
    yield
    thread.join()
