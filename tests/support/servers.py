"""The real servers, for tests: on free loopback ports, dying with the test process.

Each `run_...` is a context manager that yields when the server answers and stops it at the end.
A server that does not come up fails the test with the end of its log.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from platform_assets.local_stack.triton_server import control_key, remove_stale_shared_memory
from platform_assets.resources.triton_api import CONTROL_HEADER
from tests.support.launcher import Launched, Launcher

ROOT = Path(__file__).resolve().parents[2]
# Debian puts HAProxy where the PATH of an ordinary user does not reach.
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
LOOPBACK = "127.0.0.1"
TRITON_ENV = Path(os.environ.get("TRITON_ENV") or ROOT / ".venv-triton")
_LOG_TAIL_LINES = 60
NO_ROOTS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of servers without TLS: httpx reads all root certificates for each client else."""
_PORTS: Final = range(10_000, 32_768)
"""Below those that Linux gives to outgoing connections."""
_SHARES: Final = 8
"""Parts of the ports, so that test processes beside each other choose different ones."""
SHARE: Final = "TEST_PORTS"
"""Environment variable: number of the part, where xdist does not say it."""
_handed_out: set[int] = set()
_LAUNCHER: Final = Launcher()


class ServerError(Exception):
    """A server did not start, or did not stop."""


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on; never the same twice.

    Not one that the system gives to outgoing connections: a server that is stopped and started
    again would find its port in use by some client.
    """
    share = os.environ.get("PYTEST_XDIST_WORKER", "gw")[2:] or os.environ.get(SHARE, "0")
    ports = range(_PORTS.start + int(share) % _SHARES, _PORTS.stop, _SHARES)
    while True:
        port = random.choice(ports)
        if port in _handed_out:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _handed_out.add(port)
            return port


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return once `condition` holds; TimeoutError naming `what` after `timeout_s` seconds."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > timeout_s:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(_pause(waited))


def _pause(waited: float) -> float:
    """Seconds until a question that was first asked `waited` seconds ago is asked again.

    What has lasted long is asked about less often: the questions slow down what they are about,
    and are late by a twentieth of the wait at most.
    """
    return min(max(waited / 20, 0.02), 0.5)


def loaded_config(url: str, control_key: str, model_name: str, version: int) -> Any:
    """Return the configuration that a READY version of the Triton at `url` runs with."""
    path = f"{url}/v2/models/{model_name}/versions/{version}/config"
    answer = httpx.get(path, headers={CONTROL_HEADER: control_key}, verify=NO_ROOTS)
    return answer.raise_for_status().json()


def answers_ok(url: str) -> bool:
    """Whether a GET of `url` answers 200 at this moment; proxies are never asked."""
    try:
        return httpx.get(url, timeout=2, trust_env=False, verify=NO_ROOTS).status_code == 200
    except httpx.HTTPError:
        return False


def accepts(port: int, host: str = LOOPBACK) -> bool:
    """Whether something accepts TCP connections on this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


@dataclass(slots=True)
class RunningProcess:
    """A server under a tether: its whole family ends with it, and with the test process."""

    argv: Sequence[str]
    ready: Callable[[], bool]
    timeout_s: float
    env: Mapping[str, str]
    log: Path
    grace_s: float = 10
    cwd: Path = ROOT
    tether: Launched | None = field(default=None, init=False)

    def start(self) -> None:
        """Start and wait until ready; ServerError with the log's end otherwise."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.tether = _LAUNCHER.start(
                self.argv, env=self.env, log=log.fileno(), cwd=self.cwd, grace_s=self.grace_s
            )
        self._wait()

    def _wait(self) -> None:
        assert self.tether is not None
        began = time.monotonic()
        while not self.ready():
            if self.tether.poll() is not None:
                raise ServerError(f"ended with {self.tether.returncode}: {self._describe()}")
            waited = time.monotonic() - began
            if waited > self.timeout_s:
                self.stop()
                raise ServerError(f"not ready within {self.timeout_s} s: {self._describe()}")
            time.sleep(_pause(waited))
        # Another process may listen on the port while ours has failed to.
        if self.tether.poll() is not None:
            raise ServerError(f"ended with {self.tether.returncode}: {self._describe()}")

    def _describe(self) -> str:
        return f"{' '.join(self.argv)}\n--- end of {self.log} ---\n{self.log_tail()}"

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The last lines that the server wrote."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        return self.tether is not None and self.tether.poll() is None

    @property
    def server(self) -> psutil.Process:
        """The server process itself, below the tether."""
        assert self.tether is not None
        children = psutil.Process(self.tether.pid).children()
        if not children:
            raise ServerError(f"not running: {self._describe()}")
        return children[0]

    def signal(self, number: int) -> None:
        """Send a signal to the server itself (SIGSTOP and SIGCONT: to all that it started)."""
        server = self.server
        family = [server]
        if number in (signal.SIGSTOP, signal.SIGCONT):
            family += server.children(recursive=True)
        if number == signal.SIGCONT:
            # Triton dies of a segmentation fault where a backend's process does not answer it yet.
            family.reverse()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Wait for the end; the server's exit code, 128 + n for signal n."""
        assert self.tether is not None
        return self.tether.wait(timeout=timeout_s)

    def kill(self) -> None:
        """`kill -9` of the server, as a crash would; returns when all of it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Ask to stop (SIGTERM), kill after the grace period; the exit code."""
        assert self.tether is not None
        if self.tether.poll() is None:
            self.tether.terminate()
        return self.wait(self.grace_s + 60)

    def restart(self) -> None:
        """Stop what still runs, start anew on the same ports, wait until ready."""
        if self.running:
            self.stop()
        self.start()


@contextlib.contextmanager
def run_process(
    argv: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: Path,
    timeout_s: float = 180,
    env: Mapping[str, str] | None = None,
    grace_s: float = 10,
    cwd: Path = ROOT,
) -> Iterator[RunningProcess]:
    """Run any server, for example `[sys.executable, "-m", "uvicorn", ...]`.

    `env` is added to this process's environment; the project is importable in it.
    """
    inherited = {**os.environ}
    # Feast sets it where it is imported: another process would count in files.
    inherited.pop("PROMETHEUS_MULTIPROC_DIR", None)
    environ = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
    process = RunningProcess(
        argv=argv, ready=ready, timeout_s=timeout_s, env=environ, log=log, grace_s=grace_s, cwd=cwd
    )
    try:
        process.start()
        yield process
    finally:
        if process.tether is not None:
            process.stop()


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """A real Triton in explicit mode, its control APIs locked by `control_key`."""

    http_url: str
    grpc_url: str
    metrics_url: str
    control_key: str
    repository: Path
    state_dir: Path
    process: RunningProcess

    def restart(self) -> None:
        """Start again as a supervisor would: with what the repository holds now."""
        self.process.restart()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()

    def version_ready(self, model_name: str, version: int) -> bool:
        """What the versioned ready endpoint says at this moment."""
        return answers_ok(f"{self.http_url}/v2/models/{model_name}/versions/{version}/ready")


@contextlib.contextmanager
def run_triton(
    repository: Path,
    state_dir: Path,
    *,
    env: Path = TRITON_ENV,
    timeout_s: float = 180,
    grace_s: float = 15,
) -> Iterator[RunningTriton]:
    """Run Triton on `repository` the way the local stack does.

    Every model with a persisted configuration is loaded; "ready" means that the server is,
    a model that failed to load does not hold it up.
    """
    http, grpc, metrics = free_port(), free_port(), free_port()
    argv = [
        *(sys.executable, "-m", "platform_assets.local_stack.triton_server"),
        *("--env", str(env), "--repository", str(repository), "--state-dir", str(state_dir)),
        *("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)),
    ]
    url = f"http://{LOOPBACK}:{http}"
    with contextlib.ExitStack() as stack:
        # A server that was killed leaves its regions; the next start would remove them.
        stack.callback(remove_stale_shared_memory, state_dir)
        process = stack.enter_context(
            run_process(
                argv,
                ready=lambda: answers_ok(f"{url}/v2/health/ready"),
                log=state_dir / "logs" / "triton.log",
                timeout_s=timeout_s,
                grace_s=grace_s,
            )
        )
        yield RunningTriton(
            http_url=url,
            grpc_url=f"{LOOPBACK}:{grpc}",
            metrics_url=f"http://{LOOPBACK}:{metrics}/metrics",
            control_key=control_key(state_dir),
            repository=repository,
            state_dir=state_dir,
            process=process,
        )


@dataclass(frozen=True, slots=True)
class RunningMlflow:
    """A real MLflow server: SQLite and local artifacts, served by the server itself."""

    url: str


@dataclass(frozen=True, slots=True)
class OwnMlflow(RunningMlflow):
    """One that may be stopped and killed: by `process` it is reached, or is it."""

    process: RunningProcess


@contextlib.contextmanager
def run_mlflow(state_dir: Path, *, timeout_s: float = 240) -> Iterator[OwnMlflow]:
    """Run an MLflow server whose whole state is below `state_dir`.

    It is the application that `mlflow server` starts, without the process that starts it and
    imports all of MLflow as well: 3 of 6.7 s of CPU. The tests in `e2e/` start the command.
    """
    port = free_port()
    home = state_dir / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    database = f"sqlite:///{home}/mlflow.db"
    with run_process(
        [
            *(sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app"),
            *("--host", LOOPBACK, "--port", str(port)),
        ],
        ready=lambda: answers_ok(f"http://{LOOPBACK}:{port}/health"),
        log=state_dir / "logs" / "mlflow.log",
        timeout_s=timeout_s,
        env={
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(home / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
        },
    ) as process:
        yield OwnMlflow(url=f"http://{LOOPBACK}:{port}", process=process)


@contextlib.contextmanager
def run_mlflow_link(state_dir: Path, mlflow: RunningMlflow) -> Iterator[OwnMlflow]:
    """Run a way of the test's own to an MLflow server: it is lost where the way is.

    It starts in a fiftieth of what a server of the test's own takes, and again as fast.
    """
    port = free_port()
    with run_process(
        [sys.executable, "-m", "tests.support.relay", str(port), mlflow.url.rsplit(":", 1)[1]],
        ready=lambda: accepts(port),
        log=state_dir / "logs" / "relay.log",
    ) as process:
        yield OwnMlflow(f"http://{LOOPBACK}:{port}", process)


@dataclass(frozen=True, slots=True)
class RunningRedis:
    """A real Redis without persistence."""

    url: str
    port: int
    process: RunningProcess


@contextlib.contextmanager
def run_redis(
    state_dir: Path,
    *options: str,
    host: str = LOOPBACK,
    command: Sequence[str] = (),
    timeout_s: float = 60,
) -> Iterator[RunningRedis]:
    """Run a Redis on an address with more options; it keeps nothing over a restart.

    `command` is what starts it, where that is not this process alone.
    """
    port = free_port()
    state_dir.mkdir(parents=True, exist_ok=True)
    argv = [
        *command,
        *("redis-server", "--port", str(port), "--bind", host, "--save", ""),
        *("--appendonly", "no", "--dir", str(state_dir)),
        *options,
    ]
    with run_process(
        argv,
        ready=lambda: accepts(port, host),
        log=state_dir / "logs" / "redis.log",
        timeout_s=timeout_s,
    ) as process:
        yield RunningRedis(url=f"redis://{host}:{port}/0", port=port, process=process)


@dataclass(frozen=True, slots=True)
class RunningBalancer:
    """A real HAProxy before some servers."""

    url: str
    process: RunningProcess


@contextlib.contextmanager
def run_haproxy(
    state_dir: Path,
    urls: Sequence[str],
    *,
    rules: Sequence[str] = (),
    reuse: str = "safe",
    checks: bool = True,
    timeout_s: float = 60,
) -> Iterator[RunningBalancer]:
    """Balance over servers in turn, as long as their /ready says so; nothing is tried twice.

    `rules` are lines of the frontend; `reuse` says which requests share connections to servers.
    Without `checks` all servers count as ready, however late they answer.
    """
    port = free_port()
    state_dir.mkdir(parents=True, exist_ok=True)
    check = " check" if checks else ""
    servers = [
        f"  server r{number} {url.removeprefix('http://')}{check}"
        for number, url in enumerate(urls)
    ]
    config = state_dir / "haproxy.cfg"
    config.write_text(
        "\n".join(
            [
                "global\n  maxconn 1000",
                "defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s",
                "  timeout server 30s\n  retries 0",
                f"frontend clients\n  bind {LOOPBACK}:{port}\n  default_backend replicas",
                *(f"  {rule}" for rule in rules),
                "backend replicas\n  balance roundrobin\n  option httpchk GET /ready",
                f"  http-reuse {reuse}",
                "  default-server inter 200ms fastinter 50ms fall 2 rise 1",
                *servers,
                "",
            ]
        )
    )
    url = f"http://{LOOPBACK}:{port}"
    with run_process(
        ["haproxy", "-db", "-f", str(config)],
        ready=lambda: answers_ok(f"{url}/health"),
        log=state_dir / "logs" / "haproxy.log",
        timeout_s=timeout_s,
    ) as process:
        yield RunningBalancer(url, process)
