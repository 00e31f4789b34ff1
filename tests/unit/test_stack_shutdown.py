"""What `make down` says while the services of another process stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from platform_assets.local_stack import __main__ as cli

OWNER = """
import signal, subprocess, sys
from platform_assets.local_stack.settings import stack_settings
from platform_assets.local_stack.stack import sole_owner

def service(*argv):
    sleep = "import time; time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", sleep, "--", sys.executable, *argv])

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with sole_owner(stack_settings({"STATE_DIR": sys.argv[1]})):
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
