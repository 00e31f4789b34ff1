"""Checks the part of a request that names entities by key and features by name. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final, cast

import msgspec

from serving_gateway.contract import EntityId, PredictRequest, Scalar
from serving_gateway.errors import InvalidInput
from serving_gateway.features.types import EntityKey
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.coerce import invalid_value
from serving_gateway.inference.rows import check_count

_ROW_FIELDS: Final = ("entity_id", "entity_ids", "data", "instances")
_SHOWN_NAMES: Final = 10
_SHOWN: Final = 200
"""Characters of a client's name that an error quotes."""


class EntityRequest(msgspec.Struct, frozen=True):
    """Rows by the keys of their entities, and by what the caller sends of them."""

    is_single: bool
    """Whether it was sent as an object, which is one row, rather than as a list."""
    entities: Sequence[Mapping[str, EntityId]]
    sent: Sequence[Mapping[str, Scalar]]
    keys: tuple[str, ...]
    """Names of the keys of `ids`."""
    ids: list[EntityKey | None]
    """By row; None for a row without keys."""
    overrides: dict[int, Set[str]]
    """Stored features that were sent, by row."""
    wanted: list[int]
    """Rows with stored features that were not sent."""

    @property
    def wanted_ids(self) -> list[EntityKey]:
        """The ids of the wanted rows."""
        return [cast(EntityKey, self.ids[row]) for row in self.wanted]

    def place(self, part: str, row: int, name: str | None) -> str:
        """The path of a value in `entities` or `request`, or of all of its row."""
        where = part if self.is_single else f"{part}[{row}]"
        return where if name is None else f"{where}.{name[:_SHOWN]}"

    def missing_key(self, row: int, key: str | None, features: Sequence[str]) -> InvalidInput:
        """The error for a row that lacks a key by which these features are stored."""
        what = (
            f"is missing: {list_names(features)} would be read by it. Send it, or these in request."
        )
        return invalid_value(self.place("entities", row, key), what, code="missing_key")


def read_entities(codec: Codec, request: PredictRequest, max_rows: int) -> EntityRequest:
    """Check what a request says of its entities against what a version reads.

    `InvalidInput` or `TooLarge` for what contradicts itself, is not known or is missing.
    """
    for field in _ROW_FIELDS:
        if getattr(request, field) is not None:
            what = "cannot be sent together with entities or request, which say what to read."
            raise invalid_value(field, what, code="too_many")
    is_single, entities, sent = _rows(request)
    check_count(codec, "request" if request.entities is None else "entities", len(sent), max_rows)
    query = EntityRequest(is_single, entities, sent, (), [], {}, [])
    layout = codec.layout
    for row, values in enumerate(sent):
        if values.keys() != layout.required:
            _check_sent(codec, query, row, values)
            if given := values.keys() - layout.required:
                query.overrides[row] = given
    return _with_keys(codec, query)


def list_names(names: Sequence[str]) -> str:
    """List names for people, cut if there are very many."""
    more = len(names) - _SHOWN_NAMES
    shown = ", ".join([name[:_SHOWN] for name in names[:_SHOWN_NAMES]])
    return f"{shown} and {more} more" if more > 0 else shown


def _rows(
    request: PredictRequest,
) -> tuple[bool, Sequence[Mapping[str, EntityId]], Sequence[Mapping[str, Scalar]]]:
    """Whether the request is one row in an object, and the two parts of each row."""
    entities, sent = request.entities, request.request
    is_single = isinstance(sent if entities is None else entities, dict)
    parts: list[Any] = []
    for field, part in (("entities", entities), ("request", sent)):
        if part is not None and isinstance(part, dict) is not is_single:
            what = f"must be {'an object' if is_single else 'a list'}, as entities is."
            raise invalid_value(field, what, code="wrong_type")
        parts.append([part] if isinstance(part, dict) else part)
    rows = len(parts[1] if parts[0] is None else parts[0])
    if rows == 0:
        field = "request" if entities is None else "entities"
        raise invalid_value(field, "is empty; send at least one row.", code="empty")
    if parts[1] is not None and len(parts[1]) != rows:
        what = f"has {len(parts[1])} rows for {rows} entities; send one for each."
        raise invalid_value("request", what, code="wrong_length")
    nothing: list[dict[str, Any]] = [{}] * rows
    return is_single, parts[0] or nothing, parts[1] or nothing


def _check_sent(codec: Codec, query: EntityRequest, row: int, values: Mapping[str, Scalar]) -> None:
    """Refuse a row that lacks a request feature, or has an unknown feature."""
    layout = codec.layout
    for name in layout.requested:
        if name not in values:
            todo = "; send null where it is not known" if name in codec.nullable else ""
            what = f"is missing; it comes with each request{todo}."
            raise invalid_value(query.place("request", row, name), what, code="missing_feature")
    if unknown := values.keys() - layout.known:
        what = f"is not a feature of this model; it has {list_names(layout.names)}."
        raise invalid_value(query.place("request", row, min(unknown)), what, code="unknown_feature")


def _with_keys(codec: Codec, query: EntityRequest) -> EntityRequest:
    """The request with the ids of its rows, and which of them are to be looked up."""
    stored = codec.layout.stored
    keys = codec.signature.join_keys or (_only_key(query) if stored else ())
    complete = frozenset(keys)
    for row, entity in enumerate(query.entities):
        if entity.keys() != complete or not keys:
            _check_keys(codec, query, row, keys)
    ids: list[EntityKey | None]
    if len(keys) > 1:
        ids = [tuple([entity.get(key) for key in keys]) for entity in query.entities]
    else:
        ids = [next(iter(entity.values()), None) for entity in query.entities]
    given = query.overrides
    wanted = [row for row in range(len(ids)) if len(given.get(row, ())) < len(stored)]
    return msgspec.structs.replace(query, keys=keys, ids=ids, wanted=wanted)


def _only_key(query: EntityRequest) -> tuple[str, ...]:
    """The key that the request names, for a version whose only key has an unknown name."""
    names = [name for entity in query.entities for name in entity]
    return (names[0],) if names and len(names[0]) <= _SHOWN else ()


def _check_keys(codec: Codec, query: EntityRequest, row: int, keys: tuple[str, ...]) -> None:
    """Refuse a row with an unknown key, or without a key that is certainly needed."""
    entity, given, stored = query.entities[row], query.overrides.get(row), codec.layout.stored
    if unknown := entity.keys() - {*keys}:
        read = f"are read by {', '.join(keys)}" if keys else "are not read by keys"
        what = f"is not a key of this model's features, which {read}."
        raise invalid_value(query.place("entities", row, min(unknown)), what, code="unknown_key")
    # Only the store knows which of several keys has which features.
    if len(given or ()) < len(stored) and (len(keys) < 2 or not given):
        absent = [key for key in keys if key not in entity]
        lacking = [name for name in stored if name not in (given or ())]
        raise query.missing_key(row, absent[0] if absent else None, lacking)
