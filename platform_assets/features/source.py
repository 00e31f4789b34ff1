"""The source file: its identity by content. Light, because sensors import it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

FINGERPRINT_METADATA: Final = "data_fingerprint"
"""Metadata key under which materializations name the source's content."""


class SourceError(Exception):
    """The source cannot be used; the message says what is wrong, `todo` what to do about it."""

    def __init__(self, message: str, todo: str) -> None:
        super().__init__(message)
        self.todo = todo


def source_fingerprint(path: Path) -> str:
    """Return the SHA-256 of the file's bytes: 64 lower-case hexadecimal digits.

    Two files with the same content have the same fingerprint, whatever their times.

    Raises:
        SourceError: no readable file is there.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as exc:
        raise SourceError(
            f"the source file {path} does not exist",
            "put the file there, or set SOURCE_PATH to where it is, and run again",
        ) from exc
    except OSError as exc:
        raise SourceError(
            f"the source file {path} cannot be read ({exc.strerror or exc})",
            "make it a file that this user may read, and run again",
        ) from exc
