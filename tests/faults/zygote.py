"""A process that has imported all that a run needs, and forks each run off itself.

A run of its own process, to be killed like one, without the imports that take a fresh process
ten seconds and more. Orders come as lines of JSON, each is answered when its run has ended.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from typing import Any

import dagster as dg

from tests.faults.killing import KillPoint
from tests.faults.runs import execute, prepare
from tests.support.migrations import read_migrations_once


def _fork(order: dict[str, Any]) -> int:
    """Execute one run in a child; its exit code, or the signal that ended it as a negative."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            # What it prints is a log, never an answer.
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(order["environ"])
            point = order["point"] and KillPoint.parse(order["point"])
            code = execute(
                order["job"],
                parent=order["parent"],
                point=point,
                is_canceled=order["is_canceled"],
                config=order["config"],
            )
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    import_module("platform_assets.local_stack.run_imports")
    prepare()
    # Each run has a database of its own: without this a quarter of a short one's CPU time.
    with read_migrations_once():
        _warm_up()
        # A line of its own, since something may have been printed by an import.
        print("\nready", flush=True)
        for line in sys.stdin:
            print(_fork(json.loads(line)), flush=True)


def _warm_up() -> None:
    """Read the migrations here, once for all runs."""
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        run = dg.DagsterRun(job_name="none")
        instance.add_run(run)
        instance.report_run_canceled(run)


if __name__ == "__main__":
    main()
