"""What most tests of the manifests look at."""

from __future__ import annotations

import pytest

from tests.manifests.rendering import Manifests, load, rendered


@pytest.fixture(scope="session")
def production() -> Manifests:
    """The overlay with everything in it; leave it as it is."""
    return load(rendered("overlays/production"))
