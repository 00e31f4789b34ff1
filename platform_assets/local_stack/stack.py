"""Start, watch and stop the services of one state directory."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from platform_assets.local_stack.processes import (
    GATEWAY_TOKEN,
    GATEWAY_TOKENS,
    LEDGER_KEY,
    TRITON_KEY,
    Service,
    environment,
    own_environment,
    services,
)
from platform_assets.local_stack.settings import LOOPBACK, StackError, StackSettings
from platform_assets.local_stack.supervision import ServiceState, Supervisor

_START_DEADLINE_S: Final = 120.0
_MAX_STARTS: Final = 4
_POLL_S: Final = 0.2
_REPORT_EVERY_S: Final = 5.0

_UNUSABLE_CHARACTER: Final = re.compile(r"""[\s'"\\$`&|;<>()*?\[\]{}!#~%]""")

Progress = Callable[[str, str], None]
"""Called with (service, what it is doing) on each change."""


class Stack:
    """The services of one state directory, owned by this process."""

    def __init__(
        self,
        settings: StackSettings,
        environ: Mapping[str, str],
        parts: Sequence[Service] | None = None,
    ) -> None:
        self._settings = settings
        self._services = services(settings, time.time()) if parts is None else parts
        self._environ = environ
        self._supervisor = Supervisor(settings)
        self._temporary = ExitStack()

    def start(self, progress: Progress) -> None:
        """Start every service in order and return when all are ready.

        Raises:
            StackError: a port is taken, or a service did not become ready in time; the message
                names it and ends with its last log lines. What was started is stopped again.
        """
        validate_state_dir(self._settings)
        require_free_ports(self._settings)
        prepare_state(self._settings)
        # Feast and Dagster leave temporary files behind when a signal stops them.
        folder = TemporaryDirectory(prefix="readygate-", ignore_cleanup_errors=True)
        link, target = self._settings.temporary, self._temporary.enter_context(folder)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        environ = environment(
            self._settings, self._environ, stack_secrets(self._settings, self._environ)
        )
        try:
            for wave in sorted({service.wave for service in self._services}):
                parts = [s for s in self._services if s.wave == wave]
                self._start_wave(parts, environ, progress)
        except BaseException:
            self.stop()
            raise

    def _start_wave(
        self, wave: Sequence[Service], environ: Mapping[str, str], progress: Progress
    ) -> None:
        deadline = time.monotonic() + _START_DEADLINE_S
        for service in wave:
            self._supervisor.start(service, own_environment(service, environ))
            progress(service.name, "starting")
        for service in wave:
            began = time.monotonic()
            self._wait(service, deadline, progress)
            progress(service.name, f"ready after {time.monotonic() - began:.1f} s")

    def _wait(self, service: Service, deadline: float, progress: Progress) -> None:
        name = service.name
        began = reported = time.monotonic()
        while not service.ready():
            if (now := time.monotonic()) - reported >= _REPORT_EVERY_S:
                reported = now
                progress(name, f"not ready yet, {now - began:.0f} s")
            starts = self._supervisor.states()[name].starts
            problem = ""
            if starts >= _MAX_STARTS:
                problem = f"{name} ended {starts - 1} times while it was starting"
            elif time.monotonic() > deadline:
                problem = f"{name} did not become ready within {_START_DEADLINE_S:.0f} s"
            if problem:
                raise StackError(f"{problem}. The end of its log:\n{tail(self.log_of(name))}")
            time.sleep(_POLL_S)

    def states(self) -> dict[str, ServiceState]:
        """Return the state of each service."""
        return self._supervisor.states()

    def log_of(self, name: str) -> Path:
        """Return the log file of a service."""
        return self._settings.logs / f"{name}.log"

    def stop(self) -> None:
        """Stop the services in reverse order; kill those that exceed their grace period."""
        self._supervisor.stop()
        self._temporary.close()


def prepare_state(settings: StackSettings) -> None:
    """Create the folders and files that the services expect; keep existing ones."""
    for folder in (
        settings.model_repository,
        settings.proof_dir,
        settings.dagster_home,
        settings.logs,
        settings.run_dir,
        settings.state_dir / "mlflow" / "artifacts",
        settings.state_dir / "gateway",
        settings.state_dir / "feast",
    ):
        folder.mkdir(parents=True, exist_ok=True)
    # Begin with empty logs, so that their last lines belong to this start.
    for log in settings.logs.glob("*.log"):
        log.replace(log.with_suffix(".log.previous"))
    instance = Path(__file__).with_name("dagster.yaml").read_text()
    (settings.dagster_home / "dagster.yaml").write_text(instance)
    write_sample_source(settings)


def write_sample_source(settings: StackSettings) -> None:
    """Write the source of the model that ships, unless it exists."""
    from platform_assets.features.sample_data import write_iris_source

    if not settings.source_path.exists():
        write_iris_source(settings.source_path)


def stack_secrets(settings: StackSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return this state directory's secrets, created on first use, readable only by the owner.

    A Triton that runs elsewhere has its own key, given as `TRITON_CONTROL_KEY`. The operator and
    the pipeline have separate tokens, so that the gateway records which of them made a switch; it
    also accepts those in `GATEWAY_CONTROL_TOKENS`. The ledger's key stays in its file; `LEDGER_KEY`
    names a different file.
    """
    from platform_assets.ledger.keys import new_private_key
    from platform_assets.local_stack.triton_server import control_key, persistent_secret

    operator = persistent_secret(settings.operator_token)
    pipeline = persistent_secret(settings.secrets / "gateway-pipeline-token")
    key = control_key(settings.state_dir)
    if settings.external_triton is not None:
        key = environ.get(TRITON_KEY) or key
    ledger_key = environ.get(LEDGER_KEY)
    if not ledger_key:
        persistent_secret(settings.ledger_key, new_private_key)
        ledger_key = str(settings.ledger_key)
    tokens = [f"operator:{operator}", f"dagster:{pipeline}", environ.get(GATEWAY_TOKENS, "")]
    return {
        TRITON_KEY: key,
        GATEWAY_TOKEN: pipeline,
        GATEWAY_TOKENS: ",".join(filter(None, tokens)),
        LEDGER_KEY: ledger_key,
    }


def validate_state_dir(settings: StackSettings) -> None:
    """Raise StackError for a state directory whose path a server could not use.

    Triton starts its Python worker by an unquoted shell command, and `%` begins an escape in the
    address of MLflow's database.
    """
    unusable = _UNUSABLE_CHARACTER.search(str(settings.state_dir))
    if unusable is not None:
        raise StackError(
            f"the state directory {settings.state_dir} has {unusable.group()!r} in its path, which "
            "Triton's Python backend or MLflow cannot use. Nothing was started. Choose "
            "another one: make up STATE_DIR=/a/plain/path"
        )


def require_free_ports(settings: StackSettings) -> None:
    """Raise StackError for taken ports, with the variable and the holder of each."""
    taken = [
        f"{name}={port} is in use by {_holder(port)}"
        for name, port in settings.listening_ports.items()
        if not _free(port)
    ]
    if taken:
        first = taken[0].partition("=")[0]
        raise StackError(
            "; ".join(taken)
            + f". Nothing was started. Stop it, or choose another port: make up {first}=NUMBER"
        )


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # Like servers: connections that linger after a server has ended do not block its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    import psutil

    for connection in psutil.net_connections(kind="tcp"):
        listens = connection.status == psutil.CONN_LISTEN
        if listens and getattr(connection.laddr, "port", None) == port and connection.pid:
            with suppress(psutil.Error):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "a process of another user"


@contextmanager
def lock_state_dir(settings: StackSettings) -> Iterator[None]:
    """Lock the state directory for the block; StackError if another process holds it."""
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    path = settings.run_dir / "stack.pid"
    with path.open("a+") as file:
        if not _acquire_lock(file):
            file.seek(0)
            raise StackError(
                f"a stack with this state directory runs already (pid {file.read().strip()}). "
                "Look at it with `make status`, stop it with `make down`, or start another one "
                "with its own STATE_DIR and ports."
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _acquire_lock(file: IO[str]) -> bool:
    """Lock an open file; wait up to a second for `owner_pid`, which locks it only briefly."""
    deadline = time.monotonic() + 1.0
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def owner_pid(settings: StackSettings) -> int | None:
    """Return the process that holds the state directory; None if there is none."""
    path = settings.run_dir / "stack.pid"
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read().strip()
            return int(text) if text.isdecimal() else None
    return None


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, or a note that there is none."""
    if not path.exists():
        return f"(no log at {path})"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
