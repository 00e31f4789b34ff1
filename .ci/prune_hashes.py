"""Keep those hashes of a lock file that an installation can ask for: `prune_hashes.py LOCK PYLOCK`.

A universal lock file holds the hash of every file of every release, most of which are wheels for
platforms and Pythons that this project does not run on. PYLOCK is the same resolution as
pylock.toml, which says the file of each hash.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PYTHON: Final = re.compile(r"py3$|py2\.py3$|cp3(1[123])$|cp3\d+-abi3")
_PLATFORM: Final = re.compile(r"any$|manylinux.*(x86_64|aarch64)|macosx\w*_(arm64|universal2)")


def is_installable(wheel: str) -> bool:
    """Whether a wheel of this file name fits Linux or macOS and a Python of this project."""
    python, abi, platform = wheel.removesuffix(".whl").split("-")[-3:]
    python = f"{python}-abi3" if abi == "abi3" else python
    return bool(_PYTHON.match(python) and _PLATFORM.search(platform) and not abi.endswith("t"))


def kept_hashes(package: dict[str, Any]) -> Iterator[str]:
    """SHA-256 of each installable wheel of a package; where there is none, of all its files."""
    wheels = package.get("wheels", [])
    sources = [package["sdist"]] if "sdist" in package else []
    for file in [wheel for wheel in wheels if is_installable(_name(wheel))] or [*wheels, *sources]:
        yield file["hashes"]["sha256"]


def pruned(lock: str, kept: set[str]) -> str:
    """The text of a lock file without the hashes that are not in `kept`."""
    lines = [
        line
        for line in lock.splitlines()
        if "--hash=" not in line or line.split("sha256:")[1].split()[0] in kept
    ]
    # A line goes on in the next one where that is a hash.
    follows = ["--hash=" in line for line in [*lines[1:], ""]]
    return "".join(
        line.removesuffix(" \\") + (" \\\n" if goes_on else "\n")
        for line, goes_on in zip(lines, follows, strict=True)
    )


def _name(file: dict[str, Any]) -> str:
    return str(file.get("name") or file["url"].rpartition("/")[2])


if __name__ == "__main__":
    lock, pylock = map(Path, sys.argv[1:])
    packages = tomllib.loads(pylock.read_text())["packages"]
    lock.write_text(pruned(lock.read_text(), {one for p in packages for one in kept_hashes(p)}))
