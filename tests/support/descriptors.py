"""Descriptors that a test file leaves open in the process that runs it."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from typing import Final

LEFT_OPEN_AT_MOST: Final = 50
"""For one file: clients of servers that are shared with the files after it stay connected."""


def check_none_leaked(before: int) -> None:
    """Fail when the process has many more descriptors open than `before`."""
    if len(open_descriptors()) - before <= LEFT_OPEN_AT_MOST:
        return
    gc.collect()
    left = open_descriptors()
    assert len(left) - before <= LEFT_OPEN_AT_MOST, (
        f"{before} descriptors were open before this file and {len(left)} are after it, by kind "
        f"{_kinds(left)}; close what its tests and the code under test open"
    )


def open_descriptors() -> list[str]:
    """What each open descriptor of this process refers to."""
    entries = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            entries.append(str(link.readlink()))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return entries


def _kinds(entries: list[str]) -> dict[str, int]:
    kinds = Counter(
        str(Path(entry).parent) if entry.startswith("/") else entry.partition(":[")[0]
        for entry in entries
    )
    return dict(kinds.most_common(5))
