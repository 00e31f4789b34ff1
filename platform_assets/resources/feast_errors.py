"""The only error of the feature store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from platform_assets.resources.redaction import redact_secrets


class FeatureStoreError(Exception):
    """A call to Feast or one of its stores failed; the message says which one and why."""


@contextmanager
def translate_feast_errors(doing: str) -> Iterator[None]:
    """Raise `FeatureStoreError` for any error in this block."""
    # Feast does not wrap the exceptions of its stores (SQLAlchemy, sqlite3, redis, pyarrow,
    # pandas); this is the only place where they are translated.
    try:
        yield
    except FeatureStoreError:
        raise
    except Exception as exc:
        reason = redact_secrets(f"{type(exc).__name__}: {exc}", os.environ)
        raise FeatureStoreError(f"Feast could not {doing}: {reason}") from exc
