"""What the processes of one run (`pytest -n`) share, without asking each other for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.support.servers import RunningMlflow, accepts, run_mlflow

WORKER: Final = "PYTEST_XDIST_WORKER"
"""Environment variable that names a process among those of a run."""


@contextlib.contextmanager
def share_mlflow(common: Path, own: Path) -> Iterator[RunningMlflow]:
    """Give the MLflow server of the run, whose address is in the folder `common`.

    The process that needs it first starts it, with its state below `own`, and stops it when no
    other one uses it any more. Locks end with their process, and so does the server.
    """
    address = common / "mlflow.url"
    with contextlib.ExitStack() as stack:
        users = stack.enter_context(_open(common / "mlflow.users"))
        # Waits while the server is being stopped.
        fcntl.flock(users, fcntl.LOCK_SH)
        with _open(common / "mlflow.start") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            url = address.read_text() if address.exists() else ""
            if not url or not accepts(urlsplit(url).port or 0):
                mlflow = stack.enter_context(run_mlflow(own))
                url = mlflow.url
                address.write_text(url)
                stack.callback(_wait_for_others, users, address)
        yield RunningMlflow(url)


def is_first(common: Path, name: str) -> bool:
    """Whether no other process of the run has asked this about `name` before."""
    try:
        (common / f"{name}.first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _wait_for_others(users: int, address: Path) -> None:
    fcntl.flock(users, fcntl.LOCK_EX)
    address.unlink(missing_ok=True)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
