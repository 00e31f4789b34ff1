"""Ids of entities: what they can be, and how Feast writes them into keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, error, pack
from typing import Any, Final, NamedTuple

from serving_gateway.features.types import InvalidEntityIds


class IdType(NamedTuple):
    """A value type that ids can have."""

    noun: str
    field: str
    """Of Feast's `Value`."""
    pack: Callable[[Any], bytes]
    """An id as it is in keys; raises for what is not an id of this type."""
    probes: tuple[int | str, ...]
    """Ids whose keys are compared with Feast's. The first is in no other part of a key."""

    @property
    def sample(self) -> int | str:
        """An id that is harmless to read."""
        return self.probes[1]

    def invalid(
        self, ids: Sequence[int | str], key: str, service: str
    ) -> dict[int, InvalidEntityIds]:
        """The errors of ids that are not of this type, by position."""
        errors = {}
        for at, one in enumerate(ids):
            try:
                self.pack(one)
            except (error, AttributeError, UnicodeEncodeError):
                why = f"must be {self.noun}: so it is in feature service {service}."
                errors[at] = InvalidEntityIds(at, why, key)
        return errors

    def keys(self, join_key: str, ids: Sequence[int | str]) -> list[Any]:
        """Feast's keys of these ids."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        values = [Value(**{self.field: one}) for one in ids]  # type: ignore[arg-type]
        return [EntityKey(join_keys=[join_key], entity_values=[one]) for one in values]


class ServiceKey(NamedTuple):
    """A key by which features are stored."""

    name: str
    """For callers."""
    id_type: IdType


def _pack_text(one: str) -> bytes:
    text = one.encode()
    return pack("<I", len(text)) + text


def _integer(bits: int, form: str) -> IdType:
    most = 1 << (bits - 1)
    probes = (0x0102030405060708 >> (64 - bits), 0, -1, most - 1, -most)
    return IdType(f"an integer of {bits} bits", f"int{bits}_val", Struct(form).pack, probes)


_TEXTS: Final = ("an id to probe with", "", "7", "é", "\U0001f33c")

ID_TYPES: Final = {
    "INT64": _integer(64, "<q"),
    "INT32": _integer(32, "<i"),
    "STRING": IdType("a string", "string_val", _pack_text, _TEXTS),
}
"""By Feast's name of the value type."""
