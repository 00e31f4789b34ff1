"""The files of a day of the prediction log, some of which hold the merged rows of others.

A merged file names those it replaces, so that a single rename puts it into effect: readers that
see it ignore them, whether or not they are deleted yet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

MERGED: Final = "merged-"
"""Prefix of the name of a merged file."""
_REPLACES: Final = b"prediction_log_replaces"
"""Key of its schema's metadata with the replaced names, a JSON array."""
_ATTEMPTS: Final = 5


def current_files(day: Path) -> list[Path]:
    """Return the files of a day, sorted by name, that together hold each of its rows once."""
    paths = _list_files(day)
    replaced = {
        name for path in paths if path.name.startswith(MERGED) for name in replaced_files(path)
    }
    return [path for path in paths if path.name not in replaced]


def _list_files(day: Path) -> list[Path]:
    """List a folder again if it changed meanwhile: a listing may miss new and old files alike."""
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
    """Whether a merged file holds the rows of this one, which may be gone."""
    merged = path.parent.glob(f"{MERGED}*.parquet")
    return any(path.name in replaced_files(file) for file in merged)


def replaced_files(merged: Path) -> frozenset[str]:
    """Return the names of the files that a merged one replaces; none if it cannot be read."""
    from pyarrow import ArrowException, parquet

    try:
        metadata = parquet.read_schema(merged).metadata or {}
        return frozenset(json.loads(metadata.get(_REPLACES, b"[]")))
    except (ArrowException, OSError, ValueError):
        return frozenset()


def replacing_metadata(paths: Sequence[Path]) -> dict[bytes, bytes]:
    """Return the metadata of a file that replaces these."""
    return {_REPLACES: json.dumps([path.name for path in paths]).encode()}


def remove_replaced(day: Path) -> None:
    """Delete the replaced files of a day that are still there, for example after a crash."""
    for merged in day.glob(f"{MERGED}*.parquet"):
        for name in replaced_files(merged):
            (day / name).unlink(missing_ok=True)
