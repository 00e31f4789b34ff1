"""Redis's commands for features that Feast has stored.

An entity is a hash: its key is the id between two constant parts, its fields are hashes of the
features' names. Both are taken from Feast itself, so that no rule of its format is repeated here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from serving_gateway.features.entity_ids import IdType
from serving_gateway.features.feast_internals import is_plain_redis, redis_reads
from serving_gateway.features.planned_read import View

log = logging.getLogger(__name__)


def make_command(
    config: Any, view: View, id_type: IdType, features: Sequence[str]
) -> Callable[[Any], bytes] | None:
    """A function from an id to the serialized command (RESP) that reads these features.

    Its reply holds the values in this order, and the timestamp after them. None for another
    store than Redis, or for an unknown format.
    """
    if not is_plain_redis(config):
        return None
    with suppress(Exception):  # of code that is not public
        keys = id_type.keys(view.join_key, id_type.probes)
        return derive_command(id_type, redis_reads(config, view.table, keys, features))
    log.warning("Feast's layout in Redis is unknown; it is read by Feast, which is slower")
    return None


def derive_command(
    id_type: IdType, reads: Sequence[tuple[bytes, Sequence[bytes]]]
) -> Callable[[Any], bytes]:
    """The function, given the key and the fields that Feast reads for each probe.

    Raises `ValueError` where the keys are not made of an id between constant parts, or the
    timestamp is not the last field.
    """
    pack = id_type.pack
    key, fields = reads[0]
    prefix, probe, suffix = key.partition(pack(id_type.probes[0]))
    expected = [(prefix + pack(one) + suffix, fields) for one in id_type.probes]
    if not probe or expected != reads or not fields[-1].startswith(b"_ts:"):
        raise ValueError("Feast's keys have an unknown form")
    before = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
    after = b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in fields)

    def command(one: int | str) -> bytes:
        key = prefix + pack(one) + suffix
        return b"%b$%d\r\n%b\r\n%b" % (before, len(key), key, after)

    return command
