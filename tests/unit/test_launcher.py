"""What the launcher starts: forked or not, it is a process of its own that dies with the test."""

from __future__ import annotations

import json
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
import importlib, json, sys
from pathlib import Path
from tests.support.launcher import Launcher
from tests.support.servers import accepts, wait_until

port, log, imported, env = sys.argv[1:]
importlib.import_module(imported)
argv = [sys.executable, "-m", "tests.support.relay", port, "9"]
with open(log, "wb") as file:
    relay = Launcher().start(
        argv, env=json.loads(env), log=file.fileno(), cwd=Path("/"), grace_s=5
    )
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


@pytest.mark.parametrize(
    ("imported", "env", "command"),
    [
        pytest.param("pytest", {}, "tests.support.launcher", id="forked in tests"),
        pytest.param("json", {}, RELAY, id="by its command in benchmarks"),
        pytest.param("pytest", {"PYTHONHASHSEED": "7"}, RELAY, id="as an interpreter must start"),
    ],
)
def test_server_dies_with_the_process_that_had_it_started(
    tmp_path: Path, imported: str, env: dict[str, str], command: str
) -> None:
    port, path = free_port(), {"PYTHONPATH": str(ROOT)}
    arguments = (str(port), str(tmp_path / "log"), imported, json.dumps(path | env))
    with subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | path,
    ) as test:
        assert test.stdout is not None
        tether = psutil.Process(int(test.stdout.readline()))
        [relay] = tether.children()
        assert relay.cmdline()[2] == command
        assert accepts(port)
        test.send_signal(signal.SIGKILL)
        wait_until(lambda: not tether.is_running(), 30, "the tether to end")
    assert not accepts(port)
