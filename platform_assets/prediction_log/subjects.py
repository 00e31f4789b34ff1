"""The subjects of an erasure: an entity, or a client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from serving_gateway.contract import LOG_CLIENT, LOG_ENTITY, client_hash

if TYPE_CHECKING:
    import pyarrow as pa


class Subject(Protocol):
    """Chooses rows by the values of one column."""

    @property
    def column(self) -> str:
        """Name of the column."""

    def includes(self, value: str) -> bool:
        """Whether rows with this value are the subject's."""


@dataclass(frozen=True, slots=True)
class EntitySubject:
    """An entity as the log names it, or `key=value` for all entities of several keys with it."""

    name: str
    column: str = LOG_ENTITY

    def includes(self, value: str) -> bool:
        """Whether it is that entity; numbers and texts that look alike are the same."""
        key, separator, wanted = self.name.partition("=")
        if value == self.name or not separator or not value.startswith("{"):
            return value == self.name
        try:
            keys = json.loads(value)
        except (ValueError, RecursionError):
            return False  # an id of one key may be any text
        return isinstance(keys, dict) and key in keys and str(keys[key]) == wanted


@dataclass(frozen=True, slots=True)
class ClientSubject:
    """A client by the hash of its id under the key of the gateways."""

    hashed: str
    column: str = LOG_CLIENT

    @classmethod
    def from_id(cls, client_id: str, key: str) -> ClientSubject:
        """The client with this id."""
        return cls(client_hash(client_id, key.encode()))

    def includes(self, value: str) -> bool:
        """Whether it is that client."""
        return value == self.hashed


def select_rows(subject: Subject, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return which rows are the subject's, as booleans without null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = column.cast(pa.string())
    names = [name for name in pc.unique(texts).drop_null().to_pylist() if subject.includes(name)]
    return pc.is_in(texts, value_set=pa.array(names, pa.string()))
