"""What makes logged rows depend on each other."""

from __future__ import annotations

import json


def first_key(entity: str) -> str:
    """The part of a logged entity that makes rows depend on each other: of several keys, the first.

    It is the one by which the evaluation is split, and rows with the same one are alike in all
    features of it, regardless of their other keys.
    """
    try:
        keys = json.loads(entity) if entity.startswith("{") else None
    except (ValueError, RecursionError):  # an id of one key may be any text
        keys = None
    if not isinstance(keys, dict) or not keys:
        return entity
    return json.dumps(next(iter(keys.items())))
