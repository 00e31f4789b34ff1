"""Keep services running: each under a tether of this process, and restarted when it ends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platform_assets.local_stack.processes import Service
from platform_assets.local_stack.settings import StackSettings

_HEALTHY_AFTER_S: Final = 3
"""A process that ends sooner counts as a failed start, and the next one waits longer."""
_FAILED_STARTS: Final = 30
"""Consecutive failed starts after which a service is abandoned; each extends the pause by 1 s."""
_SPARE_S: Final = 5
"""Seconds after its grace period at which a tether is killed as well."""
_LOG_BYTES: Final = 20_000_000


@dataclass(slots=True)
class ServiceState:
    """The state of a supervised service."""

    pid: int = 0
    """Process id of its tether."""
    starts: int = 0
    is_abandoned: bool = False


class Supervisor:
    """Keeps services running from `start` to `stop`; none outlives this process."""

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._restarters: list[_Restarter] = []

    def start(self, service: Service, environ: Mapping[str, str]) -> None:
        """Start a service, without waiting for it."""
        log = self._settings.logs / f"{service.name}.log"
        command = (
            *(str(self._settings.python), "-m", "platform_assets.local_stack.tether"),
            *("--grace", str(service.grace_s), "--parent", str(os.getpid()), "--"),
            *service.argv,
        )
        self._restarters.append(_Restarter(service, command, environ, log, self._stopping))
        self._restarters[-1].start()

    def states(self) -> dict[str, ServiceState]:
        """Return the state of each service by name."""
        return {restarter.service.name: restarter.state for restarter in self._restarters}

    def stop(self) -> None:
        """Stop all, last wave first: Dagster before the servers that its runs need."""
        self._stopping.set()
        for wave in sorted({_stop_wave(restarter) for restarter in self._restarters}, reverse=True):
            ending = [restarter for restarter in self._restarters if _stop_wave(restarter) == wave]
            for restarter in ending:
                restarter.terminate()
            for restarter in ending:
                restarter.join_or_kill()
        self._restarters = []


class _Restarter(threading.Thread):
    """Runs one service, restarts it whenever it ends, and logs its output."""

    def __init__(
        self,
        service: Service,
        command: tuple[str, ...],
        environ: Mapping[str, str],
        log: Path,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=service.name, daemon=True)
        self.service, self.state = service, ServiceState()
        self._command, self._environ, self._log = command, environ, log
        self._stopping = stopping
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        failures = 0
        while failures < _FAILED_STARTS and not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._run_once()
            except OSError as error:
                self._append(f"{self.service.name} cannot be started: {error}\n".encode())
            failures = failures + 1 if time.monotonic() - began < _HEALTHY_AFTER_S else 0
            self._stopping.wait(failures)
        self.state.is_abandoned = not self._stopping.is_set()

    def _run_once(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            self.state.starts += 1
            process = self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                umask=0o077,
                # Only this process may receive Ctrl-C; it stops the services in order.
                start_new_session=True,
            )
            self.state.pid = process.pid
        with process:  # waits for its end, after the last writer to its output has closed it
            while process.stdout and (chunk := os.read(process.stdout.fileno(), 1 << 16)):
                self._append(chunk)

    def _append(self, chunk: bytes) -> None:
        """Append to the log, which is rotated when full."""
        # A full disk must not block the service while it writes its output.
        with suppress(OSError), open(self._log, "ab", opener=_private) as file:
            file.write(chunk)
            if file.tell() > _LOG_BYTES:
                self._log.replace(self._log.with_suffix(".log.1"))

    def terminate(self) -> None:
        """Ask the service to stop if it is running."""
        with self._lock:
            if self._process is not None:
                self._process.terminate()

    def join_or_kill(self) -> None:
        """Wait until the service has ended; kill it after its grace period."""
        self.join(self.service.grace_s + _SPARE_S)
        if self.is_alive() and self._process is not None:
            self._process.kill()
            self.join(_SPARE_S)


def _stop_wave(restarter: _Restarter) -> int:
    service = restarter.service
    return service.wave if service.stop_wave is None else service.stop_wave


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
