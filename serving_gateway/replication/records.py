"""Routing records as bytes, their digests, and which of two wins; pure functions.

The rules of convergence (I7). A change that was answered with success is in the store, so:

1. Equal generation, different content (a failover lost a commit, another one took its number):
   the store's record wins everywhere.
2. A store that is ahead wins.
3. A store that is behind, or empty, lost something. What it has is either an ancestor of the
   known record, which is then written back; or a change that was accepted after the loss, on top
   of what was left. That one is newer and wins, under a generation after all known ones, so that
   no replica ever goes back in generations.
4. A record without the release that a replica knows of was changed by a gateway that did not know
   about it, such as version 0.2: the release is restored, as ended, under the next generation.

`changed_at` tells the two cases of 3 apart: `next_change_time` makes it grow along every history
even where clocks differ, so an ancestor is always older. Only a change accepted after a loss, by a
host whose clock is behind by more than the time since the loss, is mistaken for an ancestor.

An accepted change that does not survive is never lost silently: each record names its last
ancestors, so that a replica notices that what it routed by is not among them; it is logged and
counted as dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import asdict, fields, replace

from serving_gateway.contract import (
    ACTIVE,
    RECORD_SCHEMA,
    Feature,
    Lineage,
    Release,
    ReleaseAct,
    ReleasePlan,
    ReleaseState,
    RoutingRecord,
    Signature,
    Slot,
    Switch,
    Traffic,
)
from serving_gateway.errors import GenerationConflict, RecordRefused, StoreUnavailable

_PARTS: Final = (
    *(RoutingRecord, Slot, Signature, Feature, Lineage, Traffic, Switch),
    *(Release, ReleaseAct, ReleasePlan),
)
_SHAPE: Final = hashlib.sha256(
    msgspec.json.encode([[field.encode_name for field in fields(part)] for part in _PARTS])
).hexdigest()[:6]
_ANCESTORS: Final = 16
"""How many ancestors a record names: more than a following replica can be behind."""


def digest(record: RoutingRecord) -> str | None:
    """Digest of a record's content; None for one that was never written.

    Its first part identifies the shape of records: digests of releases with other fields cannot be
    compared.
    """
    if record.generation == 0:
        return None
    content = msgspec.json.encode(record, order="deterministic")
    return f"{_SHAPE}-{hashlib.sha256(content).hexdigest()[:16]}"


def with_ancestor(record: RoutingRecord, base: RoutingRecord) -> RoutingRecord:
    """The record with `base` as its latest ancestor."""
    if base.generation == 0:
        return record
    ancestors = (f"{base.generation}:{digest(base)}", *base.ancestors)[:_ANCESTORS]
    return replace(record, ancestors=ancestors)


def same_content(one: str | None, other: str | None) -> bool:
    """Whether two digests may be of equal records; those that cannot be compared may."""
    if one is None or other is None or one[:6] != other[:6]:
        return True
    return one == other


RecordOrError = RoutingRecord | StoreUnavailable
"""A model's record, or why it alone cannot be read."""


class _Schema(msgspec.Struct):
    schema: int


class _StoredSlot(Slot, frozen=True):
    signature: msgspec.Raw = msgspec.Raw(b"null")  # type: ignore[assignment]


class _StoredRecord(RoutingRecord, frozen=True):
    variants: dict[str, _StoredSlot] = msgspec.field(default_factory=dict)  # type: ignore[assignment]
    previous: dict[str, tuple[_StoredSlot, ...]] = msgspec.field(default_factory=dict)  # type: ignore[assignment]


_signatures: Final[WeakValueDictionary[bytes, Signature]] = WeakValueDictionary()
"""By their JSON: the slots of a record mostly share one, maybe of thousands of features."""


def decode_record(data: bytes, model_name: str, where: str) -> RoutingRecord:
    """Read a stored record; `RecordRefused`, with `where`, if corrupt, newer or another's."""
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema > RECORD_SCHEMA:
            raise RecordRefused(
                f"The routing record in {where} has schema {schema}; this gateway reads up to "
                f"{RECORD_SCHEMA}. Run the newer gateway that wrote it."
            )
        record = _assemble(msgspec.json.decode(data, type=_StoredRecord))
        _check_values(record)
    except ValueError as error:
        raise RecordRefused(
            f"The routing record in {where} is corrupt: {error}. It is left as it is; restore it, "
            "or move it away to start from an empty one."
        ) from error
    if record.model_name != model_name:
        raise RecordRefused(
            f"The routing record in {where} is of model {record.model_name!r}, not {model_name!r}."
        )
    return record


def _check_values(record: RoutingRecord) -> None:
    """Refuse (`ValueError`) values that no gateway writes and none could route by."""
    if not 0 <= record.traffic.percent <= 100:
        raise ValueError(f"traffic.percent is {record.traffic.percent:g}")
    for slot in itertools.chain(record.variants.values(), *record.previous.values()):
        if slot.triton_url is not None:
            address = urlsplit(slot.triton_url)
            if address.scheme not in {"http", "https"} or not address.hostname:
                raise ValueError(f"triton_url is {slot.triton_url[:100]!r}")
            _ = address.port  # raises where it is not one


def _assemble(stored: _StoredRecord) -> RoutingRecord:
    """Build the record; equal signatures are decoded once and shared."""

    def slot(stored_slot: _StoredSlot) -> Slot:
        data = bytes(stored_slot.signature)
        signature = _signatures.get(data)
        if signature is None:
            signature = msgspec.json.decode(data, type=Signature | None)
            if signature is not None:
                _signatures[data] = signature
        return Slot(**asdict(stored_slot) | {"signature": signature})

    slots = {
        "variants": {alias: slot(held) for alias, held in stored.variants.items()},
        "previous": {alias: tuple(map(slot, older)) for alias, older in stored.previous.items()},
    }
    return RoutingRecord(**asdict(stored) | slots)


def try_decode_record(data: bytes | None, model_name: str, where: str) -> RecordOrError:
    """What a store has for a model; generation 0 if it has nothing."""
    if data is None:
        return RoutingRecord(model_name=model_name)
    try:
        return decode_record(data, model_name, where)
    except RecordRefused as error:
        return error


def require_record(stored: RecordOrError) -> RoutingRecord:
    """The record; raises the error that was stored in its place."""
    if isinstance(stored, StoreUnavailable):
        raise stored
    return stored


def require_unchanged(stored: RecordOrError, expected: RoutingRecord) -> None:
    """Refuse (`GenerationConflict`) to replace another record than the expected one."""
    present = require_record(stored)
    if present != expected:
        raise GenerationConflict(
            f"The routing record is at generation {present.generation} and was changed since it "
            f"was read at generation {expected.generation}."
        )


class Merge(msgspec.Struct, frozen=True):
    """What all replicas must route by, given the store's record and a replica's."""

    record: RoutingRecord
    write: bool
    """Whether the store lacks it."""
    dropped: RoutingRecord | None = None
    """The record that was replaced although it may hold an accepted change."""


def merge(stored: RoutingRecord, known: RoutingRecord) -> Merge:
    """Decide between the store's record and the one that a replica routes by."""
    if stored == known:
        return Merge(known, write=False)
    if known.release is not None and stored.generation > 0 and stored.release is None:
        return _with_release(_merge_routing(stored, known), known, known.release)
    return _merge_routing(stored, known)


def _merge_routing(stored: RoutingRecord, known: RoutingRecord) -> Merge:
    if stored.generation == known.generation:
        return Merge(stored, write=False, dropped=known)
    if stored.generation > known.generation:
        lost = known if _is_lost(known, stored) else None
        return Merge(stored, write=False, dropped=lost)
    if stored.generation > 0 and _is_newer(stored, known):
        after = with_ancestor(replace(stored, generation=known.generation + 1), stored)
        return Merge(after, write=True, dropped=known)
    return Merge(known, write=True, dropped=stored if _is_lost(stored, known) else None)


def _with_release(merged: Merge, known: RoutingRecord, release: Release) -> Merge:
    """Restore the release that a replica knows of to a merge whose record lacks it.

    Gateways up to 0.2 leave it out, as does a change to an older record that a store fell back to.
    Like any other change of routing, such a change ends an active release; otherwise its candidate
    would keep its traffic with nothing that watches it.
    """
    record = merged.record
    if record.release is not None:
        return merged
    changes: dict[str, Any] = {}
    if release.state in ACTIVE:
        at = record.changed_at or release.since
        why = f"ended by a change that did not know of it, by {record.changed_by}"
        release = replace(release, state=ReleaseState.STOPPED, since=at, reason=why)
        if record.variants.get("B") == known.variants.get("B"):
            kept = {alias: slot for alias, slot in record.variants.items() if alias != "B"}
            changes = {"variants": kept, "traffic": Traffic()}
    after = replace(
        record, release=release, generation=max(record.generation, known.generation) + 1, **changes
    )
    return Merge(with_ancestor(after, record), write=True, dropped=merged.dropped)


def _is_lost(older: RoutingRecord, newer: RoutingRecord) -> bool:
    """Whether `newer` does not descend from `older`, which has a lower generation."""
    if older.generation == 0:
        return False
    for ancestor in newer.ancestors:
        generation, _, content = ancestor.partition(":")
        if int(generation) == older.generation:
            return not same_content(content, digest(older))
        if int(generation) < older.generation:
            return True
    # Too long ago, or written by a release that named no ancestors: go by time.
    return _is_newer(older, newer)


def _is_newer(one: RoutingRecord, other: RoutingRecord) -> bool:
    return (one.changed_at or "") > (other.changed_at or "")


def next_change_time(base: RoutingRecord, now: datetime) -> str:
    """The `changed_at` of a change to `base`: this moment, and always after the one before."""
    if base.changed_at is not None:
        with contextlib.suppress(ValueError):
            before = datetime.fromisoformat(base.changed_at)
            now = max(now, before + timedelta(milliseconds=1))
    return format_time(now)


def format_time(at: datetime) -> str:
    """A time in UTC as records have it."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
