"""Run one command so that no process of it outlives the parent of this process.

`python -m platform_assets.local_stack.tether [--grace SECONDS] [--parent PID] -- CMD ARGS...`

The tether notices the death of its parent (also by `kill -9`), asks the command to stop and
kills what is left after the grace period: children, grandchildren and also daemons that left
their session, since the kernel reparents every orphaned descendant to the tether. It exits with
the command's own exit code, or 128 + n if signal n ended the command. Linux only.

It uses only the standard library, because it precedes every server that the stack starts; psutil
is imported only when something has to be killed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

# The kernel sends the parent-death signal even if only the *thread* of the parent ends that started
# us. A dedicated signal distinguishes this from a request to stop: we check the parent then.
_PARENT_GONE: Final = signal.SIGRTMIN
_REQUESTS: Final = (signal.SIGTERM, signal.SIGINT)
_FORWARDED: Final = (*_REQUESTS, signal.SIGHUP)
_AWAITED: Final = frozenset({*_FORWARDED, _PARENT_GONE, signal.SIGCHLD})

_DEFAULT_GRACE_S: Final = 10.0
_KILL_DEADLINE_S: Final = 5.0
_NOT_STARTED: Final = 127
_PARENT_LOST: Final = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of `arguments` to its end and return the exit code described above."""
    options = _parse(arguments)
    parent = os.getppid() if options.parent is None else options.parent
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    _prctl(_PR_SET_PDEATHSIG, _PARENT_GONE)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # A parent that died before the first prctl sends no signal, so look once after it.
    if os.getppid() != parent:
        return _PARENT_LOST
    child = _start(options.command)
    code = _watch(child, parent, options.grace)
    _kill_descendants()
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tether", description="Run a command; leave nothing of it behind."
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=_DEFAULT_GRACE_S,
        metavar="SECONDS",
        help="time between the request to stop and SIGKILL (default %(default)s)",
    )
    parser.add_argument(
        "--parent",
        type=int,
        metavar="PID",
        help="process to die with; given by a caller that may die before this one has started",
    )
    parser.add_argument("command", nargs="+", metavar="CMD")
    return parser.parse_args(arguments)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def _start(command: Sequence[str]) -> int:
    tether = os.getpid()
    child = os.fork()
    if child == 0:
        _execute(command, tether)
    return child


def _execute(command: Sequence[str], tether: int) -> NoReturn:
    """In the forked child: arrange to die with the tether, then execute the command."""
    try:
        # In its own process group, so that Ctrl-C in a terminal reaches it once, through us.
        os.setpgid(0, 0)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != tether:
            os._exit(_PARENT_LOST)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        # Python ignores SIGPIPE and SIGXFSZ, a caller may ignore the requests, and children inherit
        # this: a server expects the system's defaults.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, *_REQUESTS):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], list(command))  # noqa: S606  # no shell is wanted
    except OSError as error:
        print(f"tether: cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(_NOT_STARTED)


def _watch(child: int, parent: int, grace_s: float) -> int:
    """Forward signals until the child has ended; return its exit code."""
    kill_at: float | None = None
    while True:
        code = _reap(child)
        if code is not None:
            return code
        wait_s = 3600.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
        received = signal.sigtimedwait(_AWAITED, wait_s)
        if received is None:
            if kill_at is not None and time.monotonic() >= kill_at:
                _signal(child, signal.SIGKILL)
                kill_at = time.monotonic() + _KILL_DEADLINE_S
            continue
        if received.si_signo == _PARENT_GONE:
            if os.getppid() == parent:
                continue
            _signal(child, signal.SIGTERM)
        elif received.si_signo in _FORWARDED:
            _signal(child, received.si_signo)
        else:
            continue
        if kill_at is None:
            kill_at = time.monotonic() + grace_s


def _reap(child: int) -> int | None:
    """Reap all ended descendants; return the child's exit code, or None if it still runs."""
    exit_code: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return exit_code
        if pid == 0:
            return exit_code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            exit_code = code if code >= 0 else 128 - code


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _kill_descendants() -> None:
    """Send SIGKILL to every descendant until none is left, including newly forked ones."""
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while not _has_no_children():
        import psutil

        left = psutil.Process().children(recursive=True)
        for process in left:
            _signal(process.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            print(f"tether: could not kill processes {pids}", file=sys.stderr, flush=True)
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def _has_no_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
