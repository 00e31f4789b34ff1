"""The code location of the stack: the regular definitions, with runs that start faster.

Dagster's code server executes each run in a new interpreter, which spends more time on imports
than most runs on their work. Here it forks them from one process that has imported the libraries.
That process starts and ends with the code server's: a reload replaces both.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver

from dagster._grpc.server import DagsterApiServer

from platform_assets.definitions import defs
from platform_assets.local_stack.migrations import read_migrations_once

__all__ = ["defs"]


def fork_runs() -> None:
    """Make the code server of this process fork its runs instead of starting interpreters.

    The server keeps its multiprocessing context in an attribute that no setting controls; a
    property of the class takes precedence over it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["platform_assets.local_stack.run_imports"])
    forkserver.ensure_running()
    DagsterApiServer._mp_ctx = property(lambda _: context)  # type: ignore[assignment] # see above


# A run imports this module as well.
if multiprocessing.parent_process() is None:
    read_migrations_once()
    fork_runs()
