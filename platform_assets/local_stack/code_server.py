"""`python -m platform_assets.local_stack.code_server`: the definitions, and the runs, of Dagster.

The webserver and the daemon share this process. By default each starts its own; the daemon then
replaces its process every minute, and every sensor imports its libraries again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

_CHECK_EVERY_S: Final = 2.0


def main() -> int:
    """Serve until a signal arrives; return 1 if the process with the definitions died."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    program = (sys.executable, "-m", "platform_assets.local_stack.code_proxy")
    with subprocess.Popen(program) as server:
        try:
            lost = not _watch(server, stopping)
        finally:
            server.terminate()
        if lost:
            print("the process with the definitions has ended: starting again", flush=True)
    return int(lost)


def _watch(server: subprocess.Popen[bytes], stopping: threading.Event) -> bool:
    """Return True when asked to stop, False when no process holds the definitions any more.

    The server runs them in a child process, which it replaces on a request to reload, but not when
    that child dies.
    """
    import psutil

    loaded = False
    while not stopping.wait(_CHECK_EVERY_S):
        if server.poll() is not None:
            return False
        alive = any(map(_is_alive, psutil.Process(server.pid).children()))
        if loaded and not alive:
            return False
        loaded = alive
    return True


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it ended after it was listed
        return False


if __name__ == "__main__":
    sys.exit(main())
