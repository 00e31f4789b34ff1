"""Where Feast keeps features in Redis, and the commands that read them.

An entity is a hash: its key is the id between two constant parts, its fields are hashes of the
features' names. Both are taken from what Feast itself reads (`feast_internals`), so that no rule
of its format is repeated here; a format that does not fit is reported by None.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from serving_gateway.features.entity_ids import IdType
from serving_gateway.features.feast_internals import is_plain_redis, redis_reads

log = logging.getLogger(__name__)


class HashLayout(NamedTuple):
    """The hashes of one feature view."""

    pack: Callable[[Any], bytes]
    prefix: bytes
    suffix: bytes
    fields: Mapping[str, bytes]
    """By feature."""
    timestamp_field: bytes

    def key(self, one: int | str) -> bytes:
        """The key of an entity."""
        return self.prefix + self.pack(one) + self.suffix

    def command_maker(self, features: Sequence[str]) -> Callable[[int | str], bytes]:
        """A function from an id to the serialized command (RESP) that reads these features.

        Its reply holds the values in this order, and the timestamp after them.
        """
        fields = [*(self.fields[one] for one in features), self.timestamp_field]
        before = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
        after = b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in fields)
        pack, prefix, suffix = self.pack, self.prefix, self.suffix

        def command(one: int | str) -> bytes:
            key = prefix + pack(one) + suffix
            return b"%b$%d\r\n%b\r\n%b" % (before, len(key), key, after)

        return command


def find_layout(
    config: Any, table: Any, join_key: str, id_type: IdType, features: Sequence[str]
) -> HashLayout | None:
    """The layout of a view; None for another store than Redis, or an unknown format."""
    if not features or not is_plain_redis(config):
        return None
    with suppress(Exception):  # of code that is not public
        reads = redis_reads(config, table, id_type.keys(join_key, id_type.probes), features)
        layout = derive_layout(id_type, features, reads)
        if layout is not None:
            return layout
    log.warning("Feast's layout in Redis is unknown; it is read by Feast, which is slower")
    return None


def derive_layout(
    id_type: IdType, features: Sequence[str], reads: Sequence[tuple[bytes, Sequence[bytes]]]
) -> HashLayout | None:
    """The layout of a view, from the key and the fields that Feast reads for each probe.

    None where Feast's keys are not made of an id between constant parts, or the fields are not
    one for each feature and one for the timestamp.
    """
    key, fields = reads[0]
    prefix, probe, suffix = key.partition(id_type.pack(id_type.probes[0]))
    if not probe or len(fields) != len(features) + 1 or not fields[-1].startswith(b"_ts:"):
        return None
    by_feature = dict(zip(features, fields, strict=False))
    layout = HashLayout(id_type.pack, prefix, suffix, by_feature, fields[-1])
    same = [(layout.key(one), fields) for one in id_type.probes]
    return layout if same == [*reads] else None
