"""Files of a day of the prediction log, some of which hold the rows of others.

A merged file names those whose place it takes, so that one rename brings it into effect: who sees
it leaves them out, whether they are deleted yet or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

MERGED: Final = "merged-"
"""How the name of such a file begins."""
_REPLACES: Final = b"prediction_log_replaces"
"""Key of the names in the metadata of its schema, a JSON array."""
_ATTEMPTS: Final = 5


def current_files(day: Path) -> list[Path]:
    """Return the files in the folder of a day that hold its rows, each row once, by name."""
    paths = _list_files(day)
    replaced = {
        name for path in paths if path.name.startswith(MERGED) for name in replaced_files(path)
    }
    return [path for path in paths if path.name not in replaced]


def _list_files(day: Path) -> list[Path]:
    """List a folder again if it changed meanwhile: a list may lack a new file and old ones too."""
    paths: list[Path] = []
    with suppress(FileNotFoundError):
        for _ in range(_ATTEMPTS):
            before = day.stat().st_mtime_ns
            # A staged file begins with a dot, which the pattern does not match.
            paths = sorted(day.glob("[!.]*.parquet"))
            if day.stat().st_mtime_ns == before:
                break
    return paths


def is_replaced(path: Path) -> bool:
    """Return whether the rows of a file, which may be gone, are in another one."""
    merged = path.parent.glob(f"{MERGED}*.parquet")
    return any(path.name in replaced_files(one) for one in merged)


def replaced_files(merged: Path) -> frozenset[str]:
    """Return the names of the files whose place a merged one takes; none if it cannot be read."""
    from pyarrow import ArrowException, parquet

    try:
        metadata = parquet.read_schema(merged).metadata or {}
        return frozenset(json.loads(metadata.get(_REPLACES, b"[]")))
    except (ArrowException, OSError, ValueError):
        return frozenset()


def replacing_metadata(paths: Sequence[Path]) -> dict[bytes, bytes]:
    """Return the metadata of a file that takes the place of these."""
    return {_REPLACES: json.dumps([path.name for path in paths]).encode()}


def remove_replaced(day: Path) -> None:
    """Delete the files in the folder of a day whose rows are in another one, as after a crash."""
    for merged in day.glob(f"{MERGED}*.parquet"):
        for name in replaced_files(merged):
            (day / name).unlink(missing_ok=True)
