"""Entity ids: which types they can have, and how Feast writes them into keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, error, pack
from typing import Any, Final, NamedTuple

from serving_gateway.features.types import InvalidEntityIds


class IdType(NamedTuple):
    """A value type that ids can have."""

    noun: str
    field: str
    """The field of Feast's `Value`."""
    pack: Callable[[Any], bytes]
    """Packs an id as it is in keys; raises for a value of another type."""
    probes: tuple[int | str, ...]
    """Ids whose keys are compared with Feast's. The first occurs in no other part of a key."""

    @property
    def sample(self) -> int | str:
        """An id that is harmless to read."""
        return self.probes[1]

    def find_errors(
        self, ids: Sequence[int | str], key: str, service: str
    ) -> dict[int, InvalidEntityIds]:
        """The errors of ids that are not of this type, by position."""
        errors = {}
        for at, entity_id in enumerate(ids):
            try:
                self.pack(entity_id)
            except (error, AttributeError, UnicodeEncodeError):
                why = f"must be {self.noun}: so it is in feature service {service}."
                errors[at] = InvalidEntityIds(at, why, key)
        return errors

    def keys(self, join_key: str, ids: Sequence[int | str]) -> list[Any]:
        """Feast's keys of these ids."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        values = [Value(**{self.field: entity_id}) for entity_id in ids]  # type: ignore[arg-type]
        return [EntityKey(join_keys=[join_key], entity_values=[value]) for value in values]


class ServiceKey(NamedTuple):
    """A key by which features are stored."""

    name: str
    """The name that callers use."""
    id_type: IdType


def _pack_text(text: str) -> bytes:
    encoded = text.encode()
    return pack("<I", len(encoded)) + encoded


def _integer(bits: int, form: str) -> IdType:
    limit = 1 << (bits - 1)
    probes = (0x0102030405060708 >> (64 - bits), 0, -1, limit - 1, -limit)
    return IdType(f"an integer of {bits} bits", f"int{bits}_val", Struct(form).pack, probes)


_TEXTS: Final = ("an id to probe with", "", "7", "é", "\U0001f33c")

ID_TYPES: Final = {
    "INT64": _integer(64, "<q"),
    "INT32": _integer(32, "<i"),
    "STRING": IdType("a string", "string_val", _pack_text, _TEXTS),
}
"""By Feast's name of the value type."""
