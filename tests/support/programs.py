"""Programs of the system that benchmarks start."""

from __future__ import annotations

import shutil


def require_programs(*names: str) -> None:
    """End the process with what to install; each program is named like its Debian package.

    Raises:
        SystemExit: one is missing.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(missing)
        raise SystemExit(f"missing on this machine: {packages}. sudo apt-get install {packages}")
