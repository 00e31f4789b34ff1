"""supervisord as the keeper of the services: its configuration, its start, its control socket."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from platform_assets.local_stack.processes import SECRETS, Service
from platform_assets.local_stack.settings import StackError, StackSettings

_TETHER: Final = "platform_assets.local_stack.tether"
_HEALTHY_AFTER_S: Final = 3
"""A process that ends sooner counts as a failed start, and the next one waits longer."""
_FAILED_STARTS: Final = 30
"""Failed starts in a row before supervisord gives up; the pause grows by 1 s with each."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisord says of one service."""

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL or STOPPING."""
    pid: int
    started_at: int
    """Unix time in seconds."""
    reason: str


def socket_path(state_dir: Path) -> Path:
    """Return the control socket's path: short whatever the state directory's is.

    A Unix socket's path must fit into 107 bytes, so it cannot stand in the state directory.
    """
    digest = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"serving-platform-{os.getuid()}-{digest}.sock"


def configuration(settings: StackSettings, services: Sequence[Service]) -> str:
    """Return supervisord's configuration file.

    No service starts by itself: the stack starts them in order, each when those it needs are
    ready. Once started, supervisord restarts what ends.
    """
    parser = RawConfigParser()
    sock = str(socket_path(settings.state_dir))
    parser["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": _literal(settings.logs / "supervisord.log"),
        "pidfile": _literal(settings.run_dir / "supervisord.pid"),
        "childlogdir": _literal(settings.logs),
        "umask": "077",
    }
    parser["unix_http_server"] = {"file": sock, "chmod": "0700"}
    parser["supervisorctl"] = {"serverurl": f"unix://{sock}"}
    parser["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": ("supervisor.rpcinterface:make_main_rpcinterface")
    }
    for service in services:
        parser[f"program:{service.name}"] = _program(settings, service)
    lines: list[str] = []
    for section in parser.sections():
        lines.append(f"[{section}]")
        lines += [f"{key} = {value}" for key, value in parser[section].items()]
        lines.append("")
    return "\n".join(lines)


def _program(settings: StackSettings, service: Service) -> dict[str, str]:
    # The tether is what keeps a killed supervisord from leaving the service behind.
    withheld = [word for name in sorted(SECRETS - service.secrets) for word in ("--without", name)]
    tethered = (
        str(settings.python),
        *("-m", _TETHER, "--grace", str(service.grace_s), *withheld, "--"),
        *service.argv,
    )
    return {
        "command": " ".join(_quoted(_literal(word)) for word in tethered),
        "autostart": "false",
        # Stopped from the highest to the lowest: Dagster before the servers that its runs need.
        "priority": str(service.wave),
        "autorestart": "true",
        "startsecs": str(_HEALTHY_AFTER_S),
        "startretries": str(_FAILED_STARTS),
        "stopsignal": "TERM",
        "stopwaitsecs": str(service.grace_s + 5),
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _literal(settings.logs / f"{service.name}.log"),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "2",
    }


def _literal(value: object) -> str:
    return str(value).replace("%", "%%")


def _quoted(word: str) -> str:
    # supervisord splits a command line as a shell does, and ; would begin a comment.
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Supervisor:
    """A running supervisord, seen through its control socket."""

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self._socket = socket_path(settings.state_dir)

    def launch(
        self, services: Sequence[Service], environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start supervisord, tethered to this process: it stops all when this process ends."""
        config = self._settings.run_dir / "supervisord.conf"
        config.write_text(configuration(self._settings, services))
        output = (self._settings.logs / "supervisord.out").open("wb")
        with output:
            return subprocess.Popen(
                [
                    str(self._settings.python),
                    *("-m", _TETHER, "--grace", "40", "--"),
                    *(str(self._settings.python), "-m", "supervisor.supervisord"),
                    *("--configuration", str(config)),
                ],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for this process alone; it stops the others in order.
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether supervisord answers on its socket."""
        try:
            with self._rpc() as rpc:
                rpc.getState()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def start(self, name: str) -> None:
        """Ask supervisord to start one service, without waiting for it."""
        try:
            with self._rpc() as rpc:
                rpc.startProcess(name, False)
        except xmlrpc.client.Fault as fault:
            raise StackError(f"{name} could not be started: {fault.faultString}") from fault

    def states(self) -> dict[str, ProcessState]:
        """State of each service by name; empty when supervisord does not answer."""
        try:
            with self._rpc() as rpc:
                rows = cast("list[dict[str, Any]]", rpc.getAllProcessInfo())
        except (OSError, xmlrpc.client.Error):
            return {}
        return {
            str(row["name"]): ProcessState(
                name=str(row["name"]),
                state=str(row["statename"]),
                pid=int(row["pid"]),
                started_at=int(row["start"]),
                reason=str(row["spawnerr"]),
            )
            for row in rows
        }

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        try:
            yield xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
        finally:
            transport.close()
