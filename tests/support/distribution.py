"""How `pytest -n` spreads the files over its workers, so that they end at the same time."""

from __future__ import annotations

from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling

_LONG: Final = (
    "tests/e2e/",
    "tests/integration/test_full_chain.py",
    "tests/integration/test_adoption.py",
    "tests/integration/test_gates",
    "tests/integration/test_maintenance.py",
    "tests/integration/test_reconcile.py",
    "tests/integration/test_rollback.py",
    "tests/integration/test_release_chain.py",
    "tests/integration/test_short_absence.py",
    "tests/integration/test_turns.py",
    "tests/faults/",
    "tests/integration/test_gateway_openapi.py",
    "tests/manifests/test_pipeline_commands.py",
    "tests/integration/",
    "tests/manifests/",
)
"""What takes long, by the beginnings of names: the longest first, and then all that is short."""
_ON_SHARED_PLATFORM: Final = _LONG[1:10]


class FileScheduling(LoadFileScheduling):  # type: ignore[misc] # xdist ships no types
    """File by file in the order of collection; all files of the shared platform to one worker.

    The platform is started and has its first version in production once, which takes as long as
    most of these files.
    """

    def _split_scope(self, nodeid: str) -> str:
        shares = nodeid.startswith(_ON_SHARED_PLATFORM)
        return "the shared platform" if shares else str(super()._split_scope(nodeid))


def put_longest_first(items: list[pytest.Item]) -> None:
    """Order tests for workers that take files from the front."""
    items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    ranks = (rank for rank, name in enumerate(_LONG) if nodeid.startswith(name))
    return next(ranks, len(_LONG))
