"""Files that a crash leaves either as they were or as they should be."""

from __future__ import annotations

import os
from pathlib import Path


def replace_durably(path: Path, data: bytes) -> None:
    """Put `data` in the place of the file such that a crash leaves either the old or the new.

    Raises:
        OSError: it cannot be written; the old file stands.
    """
    staged = path.with_suffix(f".{os.getpid()}.staged")
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
