"""What many unit tests need."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's records, which end with the test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
