"""The one error of the feature store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from platform_assets.resources.redaction import without_secrets


class FeatureStoreError(Exception):
    """Feast or one of its stores did not do what was asked; the message says what and why."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise `FeatureStoreError` for any error in this block."""
    # Feast lets the exceptions of its stores through (SQLAlchemy, sqlite3, redis, pyarrow,
    # pandas): the one point that names them all.
    try:
        yield
    except FeatureStoreError:
        raise
    except Exception as exc:
        reason = without_secrets(f"{type(exc).__name__}: {exc}", os.environ)
        raise FeatureStoreError(f"Feast could not {doing}: {reason}") from exc
