"""What the launcher starts: forked or not, it is a process of its own that dies with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.launcher import Launcher
from tests.support.servers import ROOT, accepts, free_port, wait_until

RELAY = "tests.support.relay"
START = """
import sys
from pathlib import Path
import pytest  # without it nothing is forked
from tests.support.launcher import Launcher
from tests.support.servers import accepts, wait_until

port = sys.argv[1]
argv = [sys.executable, "-m", "tests.support.relay", port, "9"]
with open(sys.argv[2], "wb") as log:
    relay = Launcher().start(argv, env={}, log=log.fileno(), cwd=Path("/"), grace_s=5)
wait_until(lambda: accepts(int(port)), 30, "the relay")
print(relay.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("module", [RELAY, "http.server"], ids=["forked", "not forked"])
def test_exit_code_log_and_folder_are_those_of_the_command(module: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        done = Launcher().start(
            [sys.executable, "-m", module, "no port"],
            env={"PYTHONPATH": str(ROOT)},
            log=file.fileno(),
            cwd=tmp_path,
            grace_s=5,
        )
    assert done.wait(30) == {RELAY: 1, "http.server": 2}[module]
    assert "no port" in log.read_text()


def test_server_dies_with_the_process_that_had_it_started(tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", START, str(port), str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as test:
        assert test.stdout is not None
        relay = psutil.Process(int(test.stdout.readline()))
        assert accepts(port)
        test.send_signal(signal.SIGKILL)
        wait_until(lambda: not relay.is_running(), 30, "the relay's tether to end")
    assert not accepts(port)
