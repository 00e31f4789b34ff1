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
    """The rows whose value in one column is included."""

    column: str
    includes: Callable[[str], bool]

    def select_rows(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return which rows are the subject's, as booleans without null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = column.cast(pa.string())
        names = [name for name in pc.unique(texts).drop_null().to_pylist() if self.includes(name)]
        return pc.is_in(texts, value_set=pa.array(names, pa.string()))


def entity_subject(name: str) -> Subject:
    """Return an entity as the log names it, or by `key=value` all of several keys that have it."""
    key, separator, wanted = name.partition("=")

    def includes(value: str) -> bool:
        if value == name or not separator or not value.startswith("{"):
            return value == name
        try:
            keys = json.loads(value)
        except (ValueError, RecursionError):
            return False  # an id of one key may be any text
        # Numbers and texts that look alike are the same.
        return isinstance(keys, dict) and key in keys and str(keys[key]) == wanted

    return Subject(LOG_ENTITY, includes)


def client_subject(client_id: str, key: str) -> Subject:
    """Return a client, whom the log names by the hash of its id under the key of the gateways."""
    hashed = client_hash(client_id, key.encode())
    return Subject(LOG_CLIENT, lambda value: value == hashed)
