"""`python -m platform_assets.local_stack.code_server`: the definitions, and the runs, of Dagster.

The webserver and the daemon ask this one process. Where each starts its own, as they do by
default, the daemon replaces its every minute, and every sensor imports its libraries anew.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

_LOOK_EVERY_S: Final = 2.0


def main() -> int:
    """Serve until a signal comes; 1 when the definitions were lost."""
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
    """Return True when asked to stop, False when nothing has the definitions any more.

    The server leaves them to a child, which it replaces when it is asked to reload, and not when
    that child dies.
    """
    import psutil

    loaded = False
    while not stopping.wait(_LOOK_EVERY_S):
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
    except psutil.NoSuchProcess:  # it ended since it was listed
        return False


if __name__ == "__main__":
    sys.exit(main())
