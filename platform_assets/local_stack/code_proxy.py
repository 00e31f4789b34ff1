"""`python -m platform_assets.local_stack.code_proxy`: Dagster's own code server.

It runs the definitions in a child process, which it replaces on a request to reload.
"""

from __future__ import annotations

import gc
import os

from platform_assets.local_stack.recovery import fail_abandoned_runs
from platform_assets.local_stack.settings import CODE_SOCKET, ROOT


def main() -> None:
    """Fail abandoned runs, then serve until a signal arrives."""
    # A quarter of the import time would be spent in the garbage collector, which finds nothing.
    gc.disable()
    for run_id in fail_abandoned_runs():
        print(f"run {run_id} had no process any more and was reported as failed", flush=True)
    from dagster._cli.code_server import start_command

    gc.enable()
    # Called in this process: the program `dagster` would import all of Dagster again.
    start_command(
        (
            *("--socket", os.environ[CODE_SOCKET], "--location-name", "platform"),
            *("--module-name", "platform_assets.local_stack.definitions"),
            *("--working-directory", str(ROOT), "--inject-env-vars-from-instance"),
            *("--startup-timeout", "120"),
        )
    )


if __name__ == "__main__":
    main()
