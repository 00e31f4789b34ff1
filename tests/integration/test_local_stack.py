"""The services of the stack: order, restart, clean stop, no orphan."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from platform_assets.local_stack import supervision
from platform_assets.local_stack.http import answers_ok
from platform_assets.local_stack.processes import Service
from platform_assets.local_stack.settings import ROOT, StackError, StackSettings, stack_settings
from platform_assets.local_stack.stack import Stack, lock_state_dir, owner_pid
from platform_assets.local_stack.supervision import Supervisor
from tests.support import leaving_server
from tests.support.servers import free_port, wait_until

OWNER = """
import os, signal, sys
from tests.integration.test_local_stack import service
from platform_assets.local_stack.settings import stack_settings
from platform_assets.local_stack.stack import Stack
stack = Stack(stack_settings(os.environ), os.environ, [service("only", 0, int(sys.argv[1]))])
stack.start(lambda name, doing: None)
print("started", flush=True)
signal.pause()
"""


def service(name: str, wave: int, port: int) -> Service:
    argv = (sys.executable, str(Path(leaving_server.__file__)), str(port))
    url = f"http://127.0.0.1:{port}/"
    return Service(name, wave, argv, url, partial(answers_ok, url), grace_s=2)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    names = ("DAGSTER", "MLFLOW", "GATEWAY", "TRITON_HTTP", "TRITON_GRPC", "TRITON_METRICS")
    return {
        **os.environ,
        "STATE_DIR": str(tmp_path / "state"),
        **{f"{name}_PORT": str(free_port()) for name in names},
    }


@pytest.fixture
def settings(environ: dict[str, str]) -> StackSettings:
    return stack_settings(environ)


@pytest.fixture
def stack(
    settings: StackSettings, environ: dict[str, str]
) -> Iterator[tuple[Stack, list[Service]]]:
    parts = [service("late", 1, free_port()), service("early", 0, free_port())]
    stack = Stack(settings, environ, parts)
    try:
        yield stack, parts
    finally:
        stack.stop()


def test_services_start_wave_by_wave_each_when_the_former_is_ready(
    stack: tuple[Stack, list[Service]],
) -> None:
    running, _ = stack
    events: list[tuple[str, str]] = []
    running.start(lambda name, doing: events.append((name, doing.split()[0])))
    assert events == [
        ("early", "starting"),
        ("early", "ready"),
        ("late", "starting"),
        ("late", "ready"),
    ]


def test_a_service_that_dies_is_restarted_and_what_it_left_is_gone(
    stack: tuple[Stack, list[Service]],
) -> None:
    running, parts = stack
    running.start(lambda name, doing: None)
    tether = psutil.Process(running.states()["late"].pid)
    server = tether.children()[0]
    (left,) = server.children()
    server.kill()
    wait_until(lambda: not alive(left), 10, "the grandchild to be gone")
    wait_until(parts[0].ready, 30, "the service to be back")
    assert running.states()["late"].pid != tether.pid


def test_a_service_whose_tether_is_killed_is_restarted(
    stack: tuple[Stack, list[Service]],
) -> None:
    running, parts = stack
    running.start(lambda name, doing: None)
    tether = psutil.Process(running.states()["late"].pid)
    server = tether.children()[0]
    for process in server.children():
        process.kill()
    tether.kill()
    wait_until(lambda: not alive(server), 10, "the server to be gone")
    wait_until(parts[0].ready, 30, "the service to be back")
    assert running.states()["late"].starts == 2


def test_stop_leaves_neither_processes_nor_temporary_files_and_a_log_of_each_service(
    stack: tuple[Stack, list[Service]],
) -> None:
    running, parts = stack
    running.start(lambda name, doing: None)
    tethers = [psutil.Process(state.pid) for state in running.states().values()]
    family = [one for tether in tethers for one in (tether, *tether.children(recursive=True))]
    assert len(family) == 3 * len(parts)
    (temporary,) = {Path(one.environ()["TMPDIR"]) for one in family}
    (temporary / "left behind").touch()
    running.stop()
    assert [process for process in family if alive(process)] == []
    assert not temporary.exists()
    for part in parts:
        log = running.log_of(part.name)
        assert b"GET / HTTP" in log.read_bytes(), "asked whether it is ready"
        assert log.stat().st_mode & 0o077 == 0


def test_a_log_is_bounded(
    stack: tuple[Stack, list[Service]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_LOG_BYTES", 200)
    running, parts = stack
    running.start(lambda name, doing: None)
    log = running.log_of("early")

    def former_begun() -> bool:
        return parts[1].ready() and log.with_suffix(".log.1").exists()

    wait_until(former_begun, 10, "a second log")
    assert all(
        path.stat().st_size < 1000 for path in (log, log.with_suffix(".log.1")) if path.exists()
    )


def test_a_service_that_never_starts_is_abandoned_and_the_others_go_on(
    stack: tuple[Stack, list[Service]],
    settings: StackSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "_FAILED_STARTS", 2)
    running, parts = stack
    running.start(lambda name, doing: None)
    supervisor = Supervisor(settings)
    argv = (sys.executable, "-c", "import sys; sys.exit('no licence')")
    supervisor.start(Service("broken", 0, argv, "nowhere", lambda: False), os.environ)
    wait_until(lambda: supervisor.states()["broken"].is_abandoned, 20, "it to be given up")
    assert supervisor.states()["broken"].starts == 2
    assert (settings.logs / "broken.log").read_text() == "no licence\n" * 2
    supervisor.stop()
    assert all(part.ready() for part in parts)


def test_a_service_that_cannot_be_started_for_a_moment_is_started_later(
    settings: StackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.logs.mkdir(parents=True)
    port = free_port()
    genuine = subprocess.Popen
    refused: list[Any] = []

    def popen(*args: Any, **kwargs: Any) -> Any:
        if not refused:
            refused.append(args)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return genuine(*args, **kwargs)

    supervisor = Supervisor(settings)
    monkeypatch.setattr(subprocess, "Popen", popen)
    part = service("late", 0, port)
    supervisor.start(part, os.environ)
    try:
        wait_until(part.ready, 20, "the service")
        assert supervisor.states()["late"].starts == 2
        log = (settings.logs / "late.log").read_text()
        assert "late cannot be started: [Errno 11] Resource temporarily unavailable" in log
    finally:
        supervisor.stop()


def test_killing_the_owner_outright_leaves_no_orphan(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    port = free_port()
    command = [sys.executable, "-c", OWNER, str(port)]
    environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"started\n"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) == 3  # tether, service, grandchild
        owner.kill()
    wait_until(lambda: not any(map(alive, family)), 60, "all descendants to be gone")
    assert not answers_ok(f"http://127.0.0.1:{port}/")


def test_a_port_in_use_is_refused_by_its_name_and_holder(
    settings: StackSettings, stack: tuple[Stack, list[Service]]
) -> None:
    taken = socket.create_server(("127.0.0.1", settings.ports.mlflow))
    with taken, pytest.raises(StackError) as refused:
        stack[0].start(lambda name, doing: None)
    message = str(refused.value)
    assert f"MLFLOW_PORT={settings.ports.mlflow} is in use by" in message
    assert str(os.getpid()) in message
    assert not settings.run_dir.exists()


def test_a_service_that_keeps_ending_is_named_with_its_log(
    settings: StackSettings, environ: dict[str, str]
) -> None:
    argv = (sys.executable, "-c", "import sys; sys.exit('no licence')")
    broken = Service("broken", 0, argv, "nowhere", lambda: False)
    stack = Stack(settings, environ, [broken])
    with pytest.raises(StackError, match=r"(?s)broken ended 3 times.*no licence"):
        stack.start(lambda name, doing: None)
    assert stack.states() == {}


def test_one_state_directory_has_one_stack(settings: StackSettings) -> None:
    with lock_state_dir(settings):
        assert owner_pid(settings) == os.getpid()
        with pytest.raises(StackError, match=f"pid {os.getpid()}"), lock_state_dir(settings):
            pass
    assert owner_pid(settings) is None


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
