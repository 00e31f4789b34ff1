"""The lock of a model's prediction log, for what replaces files that gateways have written."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOCK: Final = ".erase.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait for the lock of a model's folder: erasing and merging would undo each other's work."""
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
