"""Where Feast keeps features in Redis, and the commands that read them.

An entity is a hash: its key is the id between two constant parts, its fields are hashes of the
features' names. Both are taken from what Feast itself reads (`feast_internals`), so that no rule
of its format is repeated here; a format that does not fit is reported by None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import pack
from typing import Final

import msgspec

_PROBE_IDS: Final[dict[str, tuple[int | str, ...]]] = {
    "INT64": (0x0102030405060708, 0, -1, (1 << 63) - 1, -(1 << 63)),
    "INT32": (0x01020304, 0, -1, (1 << 31) - 1, -(1 << 31)),
    "STRING": ("an id to probe with", "", "7", "é", "\U0001f33c"),
}
"""By value type: ids whose keys are compared with Feast's. The first is in no other part."""

_PACKED: Final[dict[str, Callable[[int | str], bytes]]] = {
    "INT64": lambda one: pack("<q", one),
    "INT32": lambda one: pack("<i", one),
    "STRING": lambda one: pack("<I", len(text := str(one).encode())) + text,
}
"""By value type: an id as Feast writes it into keys."""


class HashLayout(msgspec.Struct, frozen=True):
    """The hashes of one feature view."""

    id_type: str
    prefix: bytes
    suffix: bytes
    fields: Mapping[str, bytes]
    """By feature."""
    timestamp_field: bytes

    def key(self, one: int | str) -> bytes:
        """The key of an entity."""
        return self.prefix + _PACKED[self.id_type](one) + self.suffix

    def command_maker(self, features: Sequence[str]) -> Callable[[int | str], bytes]:
        """A function from an id to the serialized command (RESP) that reads these features.

        Its reply holds the values in this order, and the timestamp after them.
        """
        fields = [*(self.fields[one] for one in features), self.timestamp_field]
        before = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
        after = self.suffix + b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(f), f) for f in fields)
        prefix, fixed, packed = self.prefix, len(self.prefix + self.suffix), _PACKED[self.id_type]
        if self.id_type == "STRING":

            def text_command(one: int | str) -> bytes:
                text = packed(one)
                return b"%b$%d\r\n%b%b%b" % (before, fixed + len(text), prefix, text, after)

            return text_command
        width = len(packed(0))
        start = before + b"$%d\r\n" % (fixed + width) + prefix
        return lambda one: start + packed(one) + after


def probe_ids(id_type: str) -> tuple[int | str, ...]:
    """Ids whose keys show how the keys of this value type are made."""
    return _PROBE_IDS[id_type]


def derive_layout(
    id_type: str, features: Sequence[str], reads: Sequence[tuple[bytes, Sequence[bytes]]]
) -> HashLayout | None:
    """The layout of a view, from the keys and fields that Feast reads.

    Args:
        id_type: value type of the entity's id.
        features: what was read.
        reads: for each of `probe_ids`, the key and the fields.

    Returns:
        None where Feast's keys are not made of an id between constant parts, or the fields are
        not one for each feature and one for the timestamp.
    """
    probes = _PROBE_IDS[id_type]
    prefix, probe, suffix = reads[0][0].partition(_PACKED[id_type](probes[0]))
    fields = [bytes(one) for one in reads[0][1]]
    if not probe or len(fields) != len(features) + 1 or not fields[-1].startswith(b"_ts:"):
        return None
    layout = HashLayout(
        id_type, prefix, suffix, dict(zip(features, fields, strict=False)), fields[-1]
    )
    same = [(layout.key(one), fields) for one in probes]
    return layout if same == [(key, [bytes(one) for one in own]) for key, own in reads] else None
