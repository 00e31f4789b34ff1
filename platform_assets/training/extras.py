"""Libraries of the extra `boosting`, without which a model file may do."""

from __future__ import annotations

import importlib.util


def missing(*packages: str) -> str | None:
    """Say what has to be installed for these packages; None when all are there. Imports none."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return (
        f"{' and '.join(absent)} cannot be imported here: install the extra `boosting` "
        "(pip install 'readygate[boosting]')"
    )
