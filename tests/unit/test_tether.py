"""The tether, with real processes: nothing that it started outlives what started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

TETHER = [sys.executable, "-m", "platform_assets.local_stack.tether"]

# A child that starts a grandchild in a session of its own and writes both pids to a file.
FAMILY = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
orphan = subprocess.Popen(
    [sys.executable, "-c",
     "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"],
    stdout=subprocess.PIPE, text=True)
line = orphan.stdout.readline()
orphan.wait()
partial = sys.argv[1] + ".partial"
with open(partial, "w") as file:
    file.write(f"{os.getpid()} {daemon.pid} {line}")
os.rename(partial, sys.argv[1])
if "leave" in sys.argv:
    sys.exit(7)
while True:
    time.sleep(1)
"""


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family_of(file: Path) -> list[int]:
    assert eventually(file.exists), "the child never wrote its pids"
    return [int(part) for part in file.read_text().split()]


def test_exit_code_of_the_command_is_handed_on() -> None:
    assert subprocess.run([*TETHER, "--", "sh", "-c", "exit 23"], check=False).returncode == 23


def test_death_by_a_signal_is_128_plus_its_number() -> None:
    done = subprocess.run([*TETHER, "--", "sh", "-c", "kill -9 $$"], check=False)
    assert done.returncode == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_is_named() -> None:
    done = subprocess.run(
        [*TETHER, "--", "/no/such/server"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 127
    assert "cannot start /no/such/server: No such file" in done.stderr


def test_descendants_die_when_the_command_ends_by_itself(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = [*TETHER, "--", sys.executable, "-c", FAMILY, str(pids), "leave"]
    assert subprocess.run(command, check=False).returncode == 7
    assert all(gone(pid) for pid in family_of(pids))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_and_all_descendants_end(
    tmp_path: Path, stop: signal.Signals
) -> None:
    pids = tmp_path / "pids"
    tether = subprocess.Popen(
        [*TETHER, "--", sys.executable, "-c", FAMILY, str(pids)], stderr=subprocess.DEVNULL
    )
    family = family_of(pids)
    tether.send_signal(stop)
    assert tether.wait(timeout=20) == 128 + stop
    assert all(gone(pid) for pid in family)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_caller_that_ignores_a_request_does_not_make_the_command_ignore_it(
    tmp_path: Path, stop: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    command = [*TETHER, "--", "sh", "-c", f"echo > {ready}; exec sleep 600"]
    tether = subprocess.Popen(["sh", "-c", 'trap "" TERM INT; exec "$@"', "sh", *command])
    assert eventually(ready.exists)
    tether.send_signal(stop)
    assert tether.wait(timeout=20) == 128 + stop


def test_a_command_that_ignores_the_request_is_killed_after_the_grace_period(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    tether = subprocess.Popen(
        [*TETHER, "--grace", "0.5", "--", sys.executable, "-c", FAMILY, str(pids), "stubborn"]
    )
    family = family_of(pids)
    asked_at = time.monotonic()
    tether.send_signal(signal.SIGTERM)
    assert tether.wait(timeout=20) == 128 + signal.SIGKILL
    assert time.monotonic() - asked_at >= 0.5
    assert all(gone(pid) for pid in family)


@pytest.mark.parametrize("extra", [[], ["stubborn"]])
def test_nothing_survives_kill_9_of_the_parent(tmp_path: Path, extra: list[str]) -> None:
    pids = tmp_path / "pids"
    command = [*TETHER, "--grace", "0.5", "--", sys.executable, "-c", FAMILY, str(pids), *extra]
    launcher = f"import subprocess; subprocess.Popen({command!r}).wait()"
    parent = subprocess.Popen([sys.executable, "-c", launcher])
    family = family_of(pids)
    tether = psutil.Process(parent.pid).children()[0].pid
    parent.kill()
    parent.wait()
    assert eventually(lambda: all(gone(pid) for pid in [tether, *family]))


def test_the_command_ends_when_the_tether_itself_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    tether = subprocess.Popen([*TETHER, "--", "sh", "-c", f"echo $$ > {ready}; exec sleep 600"])
    assert eventually(lambda: ready.exists() and ready.read_text().endswith("\n"))
    tether.kill()
    tether.wait()
    assert eventually(lambda: gone(int(ready.read_text())))


def test_the_end_of_the_starting_thread_alone_stops_nothing(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = [*TETHER, "--", "sh", "-c", f"echo > {ready}; exec sleep 600"]
    # The thread lives until the tether waits for its end, and the process lives on.
    launcher = f"""
import os, subprocess, threading, time
started = []
def start():
    started.append(subprocess.Popen({command!r}))
    while not os.path.exists({str(ready)!r}):
        time.sleep(0.01)
thread = threading.Thread(target=start)
thread.start()
thread.join()
try:
    print("ended with", started[0].wait(timeout=1))
except subprocess.TimeoutExpired:
    print("lives")
"""
    parent = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    answer, _ = parent.communicate(timeout=30)
    assert answer.strip() == "lives"


def test_a_parent_that_was_gone_before_the_start_is_noticed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = subprocess.run(
        [*TETHER, "--parent", str(os.getpid() + 1_000_000), "--", "touch", str(mark)], check=False
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert not mark.exists()
