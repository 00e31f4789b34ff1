"""Entities as the prediction log names them."""

from __future__ import annotations

import json
from collections.abc import Sequence


def entity_text(entity: object, keys: Sequence[str]) -> str | None:
    """An entity as text; None for a row without.

    An entity of several `keys` is a JSON object of those that the request named, in their order.
    """
    if not isinstance(entity, tuple):
        return None if entity is None else str(entity)
    named = {key: value for key, value in zip(keys, entity, strict=True) if value is not None}
    return json.dumps(named, ensure_ascii=False, separators=(",", ":")) if named else None
