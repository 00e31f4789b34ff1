"""Stop the stack of another process, and wait until its services have ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from platform_assets.local_stack.processes import Service, services
from platform_assets.local_stack.settings import StackError, StackSettings
from platform_assets.local_stack.stack import owner_pid

if TYPE_CHECKING:
    import psutil

_DEADLINE_S: Final = 90.0
_POLL_S: Final = 0.2


def stop_stack(settings: StackSettings, pid: int, on_stopped: Callable[[str], None]) -> None:
    """Ask process `pid` to stop its stack; wait for it, and report each service that ends.

    Raises:
        StackError: it still holds the state directory after 90 s.
    """
    import psutil

    deadline = time.monotonic() + _DEADLINE_S
    names = _tethers(pid, services(settings))
    with suppress(ProcessLookupError):  # it has already ended
        os.kill(pid, signal.SIGTERM)
    psutil.wait_procs(
        list(names), timeout=_DEADLINE_S, callback=lambda ended: on_stopped(names[ended])
    )
    while owner_pid(settings) is not None:
        if time.monotonic() > deadline:
            raise StackError(f"process {pid} did not stop within {_DEADLINE_S:.0f} s")
        time.sleep(_POLL_S)


def _tethers(pid: int, known: Sequence[Service]) -> dict[psutil.Process, str]:
    """Return the tethers of a stack, each with the name of its service.

    Services are recognized by their modules: their ports may differ from our own environment's.
    """
    import psutil

    modules = {service.argv[1:3]: service.name for service in known}
    names = {}
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                command = process.cmdline()
                _, *ours = command[command.index("--") :] if "--" in command else [""]
                if name := modules.get(tuple(ours[1:3])):
                    names[process] = name
    return names
