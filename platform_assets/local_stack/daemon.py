"""`python -m platform_assets.local_stack.daemon ARGS...`: fail abandoned runs, run the daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from platform_assets.local_stack.recovery import fail_abandoned_runs

if __name__ == "__main__":
    for run_id in fail_abandoned_runs():
        print(f"run {run_id} had no process any more and was reported as failed", flush=True)
    program = str(Path(sys.executable).parent / "dagster-daemon")
    os.execv(program, [program, *sys.argv[1:]])  # noqa: S606 # no shell is wanted
