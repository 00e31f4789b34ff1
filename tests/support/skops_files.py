"""Estimators in the format in which MLflow keeps them.

skops searches all modules that were imported before it, hundreds of times: a process that only
collects tests goes without it.
"""

from __future__ import annotations

from typing import Any


def stored(estimator: Any) -> bytes:
    """An estimator as MLflow keeps it."""
    import skops.io  # type: ignore[import-untyped] # ships no stubs

    return bytes(skops.io.dumps(estimator))


def untrusted_types(data: bytes) -> list[str]:
    """Names of the types in it that a reader has to trust."""
    import skops.io

    return list(skops.io.get_untrusted_types(data=data))


def restored(data: bytes) -> Any:
    """The estimator again, with trust in all of its types."""
    import skops.io

    return skops.io.loads(data, trusted=untrusted_types(data))
