"""The subjects of an erasure: an entity, or a client."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_gateway.contract import LOG_CLIENT, LOG_ENTITY, client_hash

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Subject:
    """The rows with a value in one column that `includes` accepts."""

    column: str
    includes: Callable[[str], bool]

    def select_rows(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return a mask of the subject's rows, without nulls."""
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = column.cast(pa.string())
        names = [name for name in pc.unique(texts).drop_null().to_pylist() if self.includes(name)]
        return pc.is_in(texts, value_set=pa.array(names, pa.string()))


def entity_subject(name: str) -> Subject:
    """Return an entity by its name in the log, or by `key=value` all entities with this key."""
    key, separator, wanted = name.partition("=")

    def includes(value: str) -> bool:
        if value == name or not separator or not value.startswith("{"):
            return value == name
        try:
            keys = json.loads(value)
        except (ValueError, RecursionError):
            return False  # the id of a single key may be any text
        # Numbers and texts that look alike count as equal.
        return isinstance(keys, dict) and key in keys and str(keys[key]) == wanted

    return Subject(LOG_ENTITY, includes)


def client_subject(client_id: str, key: str) -> Subject:
    """Return a client, which the log identifies by a hash of its id with the gateways' key."""
    hashed = client_hash(client_id, key.encode())
    return Subject(LOG_CLIENT, lambda value: value == hashed)
