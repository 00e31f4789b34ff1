"""A process that starts the servers of a test process: the gateways by a fork of what it imported.

A run of all tests starts four hundred gateways and as many other servers. A gateway imports for a
third of a second, and the tether of each server is an interpreter of its own: forked off this
process, both begin at once. A forked gateway runs the same module as `python -m` would, in a
process, session and environment of its own; that the command itself starts, the tests in `e2e/`
and `contract/` show.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn
from unittest import mock

import msgspec

from platform_assets.local_stack import tether

_ROOT: Final = Path(__file__).resolve().parents[2]
_FORKED: Final = {
    "serving_gateway": "serving_gateway.main",
    "tests.faults.mortal_gateway": "serving_gateway.main",
    "tests.support.relay": "asyncio",
}
"""Modules that run in a fork, each with what is imported before."""
_AT_START: Final = ("PYTHONPATH", "PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONDEVMODE")
"""Variables that an interpreter reads when it starts: where they differ, a fork would not do."""
_ORDER_BYTES: Final = 200_000


class Launched:
    """A tether that the launcher has started, with what `subprocess.Popen` offers of it."""

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._await(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; subprocess.TimeoutExpired where it takes longer."""
        code = self._await(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def _await(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ended, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            # Nothing: the launcher has ended, and its tethers with it.
            self.returncode = int(os.read(self._ended, 16) or -signal.SIGKILL)
            os.close(self._ended)
        return self.returncode


class Launcher:
    """The launcher of this process, as its clients see it: started with the first server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: socket.socket | None = None
        self._owner = 0

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str], log: int, cwd: Path, grace_s: float
    ) -> Launched:
        """Start a command under a tether that writes to the descriptor `log`."""
        order = _Order(
            argv=list(argv),
            env=dict(env),
            cwd=str(cwd),
            grace_s=grace_s,
            # What a benchmark measures is started as everywhere else.
            may_fork="pytest" in sys.modules,
        )
        ended, at_end = os.pipe()
        try:
            with self._lock:
                orders = self._connected()
                socket.send_fds(orders, [msgspec.json.encode(order)], [log, at_end])
                pid = int(orders.recv(16))
        except BaseException:
            os.close(ended)
            raise
        finally:
            os.close(at_end)
        return Launched(pid, ended)

    def _connected(self) -> socket.socket:
        # A forked test process has the socket of its parent, but no launcher.
        if self._orders is None or self._owner != os.getpid():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ORDER_BYTES)
                process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"},
                    cwd=_ROOT,
                    start_new_session=True,
                )
            self._orders, self._owner = ours, os.getpid()
            atexit.register(self._end, process)
        return self._orders

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if self._orders is not None and self._owner == os.getpid():
            self._orders.close()
            process.wait()


class _Order(msgspec.Struct, frozen=True):
    argv: list[str]
    env: dict[str, str]
    cwd: str
    grace_s: float
    may_fork: bool

    @property
    def module(self) -> str | None:
        """The module to run in a fork, if it is one of those."""
        is_module = self.argv[:2] == [sys.executable, "-m"] and self.argv[2] in _FORKED
        same = all(self.env.get(name) == os.environ.get(name) for name in _AT_START)
        return self.argv[2] if self.may_fork and is_module and same else None


def _serve(orders: socket.socket, parent: int) -> None:
    """Start what is ordered until the test process ends."""
    running: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        selector.register(os.pidfd_open(parent), selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == orders.fileno():
                    message, descriptors, _, _ = socket.recv_fds(orders, _ORDER_BYTES, 2)
                    if not message:
                        return
                    log, at_end = descriptors
                    pid = _fork(msgspec.json.decode(message, type=_Order), log)
                    os.close(log)
                    orders.send(str(pid).encode())
                    child = os.pidfd_open(pid)
                    running[child] = pid, at_end
                    selector.register(child, selectors.EVENT_READ)
                elif key.fd in running:
                    selector.unregister(key.fd)
                    pid, at_end = running.pop(key.fd)
                    os.close(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(at_end, str(code).encode())
                    os.close(at_end)
                else:
                    return


def _fork(order: _Order, log: int) -> int:
    """Fork a tether; its process ID."""
    # Before the environment becomes that of the order, with which it is compared.
    module = order.module
    if module is not None:
        import_module(_FORKED[module])
        # What is imported stays, and stays shared.
        gc.collect()
        gc.freeze()
    launcher = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.chdir(order.cwd)
            os.environ.clear()
            os.environ.update(order.env)
            with mock.patch.object(os, "execvp", os.execvp if module is None else _run):
                options = ["--grace", str(order.grace_s), "--parent", str(launcher), "--"]
                code = tether.main([*options, *order.argv])
        except BaseException:
            traceback.print_exc()
            code = 70
        os._exit(code)
    return child


def _run(_: str, argv: list[str]) -> NoReturn:
    """Become `python -m`, in the child of the tether, instead of an exec."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.argv = argv[2:]
    code: object = 0
    try:
        runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        code = 1
    # As an interpreter ends: threads first, then what was registered.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
