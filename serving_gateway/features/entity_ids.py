"""Ids of entities: what they can be, and how Feast writes them into keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct, error, pack
from typing import Any, Final, NamedTuple

from serving_gateway.errors import GatewayError
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
    sample: int | str
    """An id that an entity could have."""

    def invalid(self, ids: Sequence[int | str], service: str) -> dict[int, GatewayError]:
        """The errors of ids that are not of this type, by position."""
        errors: dict[int, GatewayError] = {}
        for at, one in enumerate(ids):
            try:
                self.pack(one)
            except (error, AttributeError, UnicodeEncodeError):
                why = f"must be {self.noun}: so it is in feature service {service}."
                errors[at] = InvalidEntityIds(at, why)
        return errors

    def keys(self, join_key: str, ids: Sequence[int | str]) -> list[Any]:
        """Feast's keys of these ids."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        value: Any = Value
        return [
            EntityKey(join_keys=[join_key], entity_values=[value(**{self.field: one})])
            for one in ids
        ]


def _pack_text(one: str) -> bytes:
    text = one.encode()
    return pack("<I", len(text)) + text


def _integer(bits: int, form: str) -> IdType:
    most = 1 << (bits - 1)
    probes = (0x0102030405060708 >> (64 - bits), 0, -1, most - 1, -most)
    return IdType(f"an integer of {bits} bits", f"int{bits}_val", Struct(form).pack, probes, 0)


ID_TYPES: Final = {
    "INT64": _integer(64, "<q"),
    "INT32": _integer(32, "<i"),
    "STRING": IdType(
        "a string",
        "string_val",
        _pack_text,
        ("an id to probe with", "", "7", "é", "\U0001f33c"),
        "",
    ),
}
"""By Feast's name of the value type."""
