"""From the body of a prediction to the rows of one version: out of the body, or out of Feast.

A version may read other features than the next one, so rows are looked up for the version that
is going to answer, in the order of its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Final

import msgspec

from serving_gateway.contract import EntityId, FeatureSource, PredictRequest
from serving_gateway.errors import EntityUnusable, FeaturesUnavailable, InvalidInput, TooLarge
from serving_gateway.features.types import InvalidEntityIds, LookupResult, Status
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.tensors import Tensors

VALUE_BYTES: Final = 40
"""What a value of a decoded row takes in memory, beside its tensor."""


class FloatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A prediction for rows of plain numbers, which the JSON decoder checks as it reads them."""

    data: list[list[float]]
    client_id: str | None = None


class RequestRows(msgspec.Struct, frozen=True):
    """Rows ready to be sent, and as the client (or the feature store) wrote them."""

    tensors: Tensors
    count: int
    source: FeatureSource = FeatureSource.PAYLOAD
    data: list[list[Any]] | None = None
    instances: list[dict[str, Any]] | None = None


def names_entities(request: PredictRequest) -> bool:
    """Whether the rows have to be looked up."""
    return request.entity_id is not None or request.entity_ids is not None


def named_entities(request: PredictRequest | FloatRequest) -> Sequence[int | str] | None:
    """The entities of a request's rows; None for one that names none."""
    if not isinstance(request, PredictRequest):
        return None
    return request.entity_ids if request.entity_id is None else (request.entity_id,)


def payload_rows(codec: Codec, request: PredictRequest, max_rows: int) -> RequestRows:
    """The rows that the request itself holds.

    Raises:
        InvalidInput, TooLarge: the rows are wrong; `field` says where.
    """
    data, instances = request.data, request.instances
    if data is not None and instances is None:
        check_count(codec, "data", len(data), max_rows)
        return RequestRows(codec.encode(data), len(data), data=data)
    if instances is not None and data is None:
        check_count(codec, "instances", len(instances), max_rows)
        return RequestRows(codec.encode_instances(instances), len(instances), instances=instances)
    raise InvalidInput(
        "Send the rows either as data or as instances.", field="data", code="missing_field"
    )


def check_count(codec: Codec, field: str, rows: int, max_rows: int) -> None:
    """Bound the rows of one request.

    Raises:
        TooLarge: there are too many.
    """
    most = min(max_rows, codec.signature.max_batch_rows)
    if rows > most:
        raise TooLarge(
            f"{field} has {rows} rows; at most {most} are taken in one request.",
            field=field,
            code="too_many_rows",
        )


def entity_ids(codec: Codec, request: PredictRequest, max_rows: int) -> list[EntityId]:
    """The entities that a request names.

    Raises:
        InvalidInput, TooLarge: they are wrong, or do not match its own rows.
    """
    if request.entity_id is not None:
        if request.entity_ids is not None:
            raise InvalidInput(
                "Send either entity_id or entity_ids.", field="entity_ids", code="too_many"
            )
        ids = [request.entity_id]
    else:
        ids = request.entity_ids or []
        if not ids:
            raise InvalidInput("entity_ids is empty.", field="entity_ids", code="empty")
        check_count(codec, "entity_ids", len(ids), max_rows)
    _check_payload(request, len(ids))
    return ids


def has_payload(request: PredictRequest) -> bool:
    """Whether the request holds rows to take where the feature store has none."""
    return request.data is not None or request.instances is not None


def merged_rows(
    codec: Codec, request: PredictRequest, found: Sequence[LookupResult], ids: Sequence[EntityId]
) -> RequestRows:
    """Rows of the store, and of the request where the store has none.

    Raises:
        EntityUnusable: neither has a row for an entity.
        InvalidInput: a row of the request is wrong.
    """
    missing = [i for i, one in enumerate(found) if one.status is not Status.FOUND]
    if missing and not has_payload(request):
        raise _missing(request, missing[0], ids[missing[0]], found[missing[0]])
    source = FeatureSource.FALLBACK if missing else FeatureSource.FEAST
    if request.instances is not None:
        instances = [
            own if one.values is None else dict(zip(codec.names, one.values, strict=True))
            for one, own in zip(found, request.instances, strict=True)
        ]
        tensors = codec.encode_instances(instances)
        return RequestRows(tensors, len(found), source, instances=instances)
    if request.data is not None:
        pairs = zip(found, request.data, strict=True)
        data = [own if one.values is None else one.values for one, own in pairs]
        return RequestRows(codec.encode(data), len(found), source, data=data)
    data = [one.values or [] for one in found]
    plain = codec.float_rows and all(
        type(value) is float and isfinite(value) for row in data for value in row
    )
    tensors = codec.encode_floats(data) if plain else codec.encode(data, "entity_ids")
    return RequestRows(tensors, len(found), source, data=data)


def fallback_rows(
    codec: Codec, request: PredictRequest, max_rows: int, error: FeaturesUnavailable
) -> RequestRows:
    """The request's own rows, where the feature store does not answer.

    Raises:
        FeaturesUnavailable: it has none.
        InvalidInput, TooLarge: they are wrong.
    """
    if not has_payload(request):
        raise error
    rows = payload_rows(codec, request, max_rows)
    return msgspec.structs.replace(rows, source=FeatureSource.FALLBACK)


def invalid_ids(request: PredictRequest, error: InvalidEntityIds) -> EntityUnusable:
    """The error of ids of a wrong type, with the field that the client wrote."""
    if request.entity_id is None:
        return error
    return EntityUnusable(f"entity_id {error.wrong[0]}", field="entity_id", code=error.code)


def features_off(request: PredictRequest, *, is_configured: bool) -> EntityUnusable:
    """The error of a request for entities that cannot be looked up at all."""
    why = (
        "The version that answers was registered without a feature service"
        if is_configured
        else "This gateway has no feature store (GATEWAY_FEAST_DIR)"
    )
    return EntityUnusable(
        f"{why}; send the rows as data or instances.",
        field="entity_ids" if request.entity_id is None else "entity_id",
        code="features_off",
    )


def _check_payload(request: PredictRequest, entities: int) -> None:
    if request.data is not None and request.instances is not None:
        raise InvalidInput(
            "Send the rows either as data or as instances.", field="data", code="too_many"
        )
    field = "data" if request.data is not None else "instances"
    rows: Sequence[object] | None = request.instances if request.data is None else request.data
    if rows is not None and len(rows) != entities:
        raise InvalidInput(
            f"{field} has {len(rows)} rows for {entities} entities; send one for each.",
            field=field,
            code="wrong_length",
        )


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
        f"Entity {entity!r} {why}. Send its row as data or instances too, to be taken instead.",
        field=field,
        code=f"{found.status}_entity",
    )
