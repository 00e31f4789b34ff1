"""Files that appear completely or not at all, even after a crash; and locks between writers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_ABANDONED_AFTER_S: Final = 3600.0
"""Age from which a staged file must belong to a killed writer."""


@contextlib.contextmanager
def open_replacement(path: Path, *, prefix: str = ".", mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file that atomically replaces `path` when the block ends.

    An exception, such as the OSError of a full disk, leaves `path` unchanged. `prefix` begins the
    temporary name; `mode` are the permissions of the new file, less the umask.
    """
    # Not the process id: processes of several containers may share it on one volume.
    staged = path.with_name(f"{prefix}{path.name}.{uuid.uuid4().hex}.part")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        staged.replace(path)
        fsync_directory(path.parent)
    finally:
        staged.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes, *, prefix: str = ".", mode: int = 0o666) -> None:
    """Replace the content of `path` atomically; arguments and errors as for `open_replacement`."""
    with open_replacement(path, prefix=prefix, mode=mode) as file:
        file.write(data)


def write_new(path: Path, data: bytes) -> None:
    """Write a file durably; OSError if it exists or cannot be written."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove matching staged files and folders whose writer must have been killed.

    Their age decides: the writer may run on another machine.
    """
    for entry in folder.glob(pattern):
        with contextlib.suppress(OSError):
            inside = entry.iterdir() if entry.is_dir() else ()
            newest = max(file.stat().st_mtime for file in (entry, *inside))
            if time.time() - newest < _ABANDONED_AFTER_S:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait for the lock of this file, and hold it, at most until the process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
