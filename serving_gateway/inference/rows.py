"""From the body of a prediction to the rows of one version: from the body itself, or from Feast.

A version may read other features than the next one, so rows are looked up for the version that is
going to answer, in the order of its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from serving_gateway.contract import EntityId, FeatureSource, PredictRequest
from serving_gateway.errors import (
    EntityUnusable,
    FeaturesUnavailable,
    GatewayError,
    InvalidInput,
    TooLarge,
)
from serving_gateway.features.types import (
    EntityKey,
    InvalidEntityIds,
    KeyMismatch,
    LookupResult,
    Status,
    oldest_time,
)
from serving_gateway.inference.bodies import FloatRequest
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.coerce import invalid_value
from serving_gateway.inference.tensors import Tensors

_SHOWN: Final = 200
VALUE_BYTES: Final = 40
"""Memory that a value of a decoded row takes, besides its tensor."""


class RequestRows(msgspec.Struct, frozen=True):
    """Rows ready to be sent, and as the client (or the feature store) wrote them."""

    tensors: Tensors
    count: int
    source: FeatureSource = FeatureSource.PAYLOAD
    data: list[list[Any]] | None = None
    instances: list[dict[str, Any]] | None = None
    as_of: float | None = None
    """When the oldest stored value was observed, in seconds since the epoch."""
    entities: Sequence[EntityKey | None] | None = None
    """The entities of the rows, if the request names keys; None for a row without."""
    is_named: bool = False
    """Whether the values of `data` were sent by name, or stored, rather than by position."""


def abbreviate_id(entity: object) -> str:
    """A client's id as an error quotes it: cut if it is very long."""
    text = repr(entity)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_count(codec: Codec, what: str, rows: int, max_rows: int, field: str = "") -> None:
    """Refuse (`TooLarge`) too many rows in one request; `field` defaults to `what` has them."""
    most = min(max_rows, codec.signature.max_batch_rows)
    if rows > most:
        raise TooLarge(
            f"{what} has {rows} rows; at most {most} are accepted in one request.",
            field=field or what,
            code="too_many_rows",
        )


def named_entities(request: PredictRequest | FloatRequest) -> Sequence[EntityId] | None:
    """The entities of a request's rows; None for one that names none."""
    if not isinstance(request, PredictRequest):
        return None
    return request.entity_ids if request.entity_id is None else (request.entity_id,)


def payload_rows(
    codec: Codec,
    request: PredictRequest,
    max_rows: int,
    source: FeatureSource = FeatureSource.PAYLOAD,
) -> RequestRows:
    """The rows that the request itself holds; `InvalidInput` or `TooLarge` with `field`."""
    field, rows = _payload(request)
    if rows is None:
        instead = _parts(codec.signature.join_keys, codec.layout.requested)
        raise InvalidInput(
            f"Send the rows as data or as instances{f', or {instead}' if instead else ''}.",
            field="data",
            code="missing_field",
        )
    if request.data is not None and request.instances is not None:
        raise InvalidInput(
            "Send the rows either as data or as instances.", field="data", code="missing_field"
        )
    check_count(codec, field, len(rows), max_rows)
    return _packed(codec, field, rows, source)


def entity_ids(codec: Codec, request: PredictRequest, max_rows: int) -> list[EntityId]:
    """The entities of a request; `InvalidInput` or `TooLarge` where they or its rows are wrong."""
    ids = request.entity_ids
    keys, requested = codec.signature.join_keys, codec.layout.requested
    if len(keys) > 1 or requested:
        raise missing_keys_error(request, keys, requested)
    if request.entity_id is None:
        if not ids:
            raise invalid_value("entity_ids", "is empty.", code="empty")
        check_count(codec, "entity_ids", len(ids), max_rows)
    elif ids is not None:
        raise InvalidInput(
            "Send either entity_id or entity_ids.", field="entity_ids", code="too_many"
        )
    else:
        ids = [request.entity_id]
    if request.data is not None and request.instances is not None:
        raise InvalidInput(
            "Send the rows either as data or as instances.", field="data", code="too_many"
        )
    field, rows = _payload(request)
    if rows is not None and len(rows) != len(ids):
        what = f"has {len(rows)} rows for {len(ids)} entities; send one for each."
        raise invalid_value(field, what, code="wrong_length")
    return ids


def merge_rows(
    codec: Codec,
    request: PredictRequest,
    ids: Sequence[EntityId],
    lookups: list[LookupResult] | GatewayError,
    max_rows: int,
) -> RequestRows:
    """Rows of the store, and of the request where the store has none.

    `EntityUnusable` where neither has a row, or an id cannot be one; `FeaturesUnavailable` where
    the store does not answer and the request has no rows; `InvalidInput`, `TooLarge` where those
    are wrong.
    """
    field, own = _payload(request)
    if isinstance(lookups, GatewayError):
        if isinstance(lookups, KeyMismatch):
            raise missing_keys_error(request, lookups.keys)
        if isinstance(lookups, InvalidEntityIds) and request.entity_id is not None:
            raise EntityUnusable(f"entity_id {lookups.why}", field="entity_id", code=lookups.code)
        if own is None or not isinstance(lookups, FeaturesUnavailable):
            raise lookups
        return payload_rows(codec, request, max_rows, FeatureSource.FALLBACK)
    rows: list[Any] = [result.values for result in lookups]
    missing = [i for i, values in enumerate(rows) if values is None] if None in rows else []
    if own is None:
        if missing:
            raise _missing(request, missing[0], ids[missing[0]], lookups[missing[0]])
        field, own = "entity_ids", []
    if field == "instances":
        rows = [values and dict(zip(codec.names, values, strict=True)) for values in rows]
    for i in missing:
        rows[i] = own[i]
    source = FeatureSource.FALLBACK if missing else FeatureSource.FEAST
    as_of = oldest_time([result.observed_at for result in lookups if result.values is not None])
    return _packed(codec, field, rows, source, as_of)


def missing_keys_error(
    request: PredictRequest, keys: Sequence[str], requested: Sequence[str] = ()
) -> InvalidInput:
    """The error for a request by one id, when the features need more."""
    parts = _parts(keys or ("the name of the key",), requested)
    return invalid_value(
        "entity_ids" if request.entity_id is None else "entity_id",
        f"does not tell all that this model needs: send {parts} instead.",
        code="missing_key" if len(keys) > 1 else "missing_feature",
    )


def _parts(keys: Sequence[str], requested: Sequence[str]) -> str:
    """What a request sends in place of rows; empty for a model without stored features."""
    named = (("entities", keys), ("request", requested))
    return ", and ".join(f"{field} with {', '.join(names)}" for field, names in named if names)


def features_disabled(request: PredictRequest, *, is_configured: bool) -> EntityUnusable:
    """The error for a request for entities that cannot be looked up at all."""
    field = "entity_ids" if request.entity_id is None else "entity_id"
    if request.entities is not None or request.request is not None:
        field = "entities"
    why = (
        "The version that answers was registered without a feature service"
        if is_configured
        else "This gateway has no feature store (GATEWAY_FEAST_DIR)"
    )
    return EntityUnusable(
        f"{why}; send the rows as data or instances.",
        field=field,
        code="features_off",
    )


def _payload(request: PredictRequest) -> tuple[str, list[Any] | None]:
    """The request's own rows, and the name of their field."""
    if request.instances is None:
        return "data", request.data
    return "instances", request.instances


def _packed(
    codec: Codec,
    field: str,
    rows: list[Any],
    source: FeatureSource,
    as_of: float | None = None,
) -> RequestRows:
    named = source is not FeatureSource.PAYLOAD
    if field == "instances":
        tensors = codec.encode_instances(rows)
        return RequestRows(tensors, len(rows), source, instances=rows, as_of=as_of, is_named=named)
    tensors = codec.encode(rows, field)
    return RequestRows(tensors, len(rows), source, rows, as_of=as_of, is_named=named)


def _missing(
    request: PredictRequest, place: int, entity: EntityId, found: LookupResult
) -> EntityUnusable:
    field = "entity_id" if request.entity_id is not None else f"entity_ids[{place}]"
    why = {
        Status.UNKNOWN: "is not in the feature store",
        Status.EXPIRED: f"has values of {found.event_timestamp} only, older than they may be",
        Status.INCOMPLETE: f"has no value for {', '.join(found.missing)}",
    }[found.status]
    return EntityUnusable(
        f"Entity {abbreviate_id(entity)} {why}. Send its row as data or instances too, to be taken "
        "instead.",
        field=field,
        code=f"{found.status}_entity",
    )
