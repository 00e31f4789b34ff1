"""Secrets that a gateway generates itself, each in a file that only its user can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from tempfile import NamedTemporaryFile

from serving_gateway.settings import MIN_KEY_LENGTH


def read_or_create(path: Path) -> str:
    """Read the secret in a file; the first of concurrently starting processes creates it (0600).

    `OSError` when it cannot be read or written, `ValueError` when it holds too few characters.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with NamedTemporaryFile("w", dir=path.parent) as staged:  # of mode 0600
            staged.write(secrets.token_urlsafe(32) + "\n")
            staged.flush()
            os.fsync(staged.fileno())
            # A link, unlike a rename, fails where another process was first.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(staged.name)
    secret = path.read_text(encoding="utf-8").strip()
    if len(secret) < MIN_KEY_LENGTH:
        raise ValueError(f"{path} holds {len(secret)} characters; it needs {MIN_KEY_LENGTH}")
    return secret
