"""From the body of a prediction to the rows of one version: out of the body, or out of Feast.

A version may read other features than the next one, so rows are looked up for the version that
is going to answer, in the order of its signature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import isfinite
from typing import Any, Protocol

import msgspec

from serving_gateway.contract import FeatureSource, PredictRequest
from serving_gateway.errors import (
    EntityUnusable,
    FeaturesUnavailable,
    GatewayError,
    InvalidInput,
    TooLarge,
)
from serving_gateway.features.types import InvalidEntityIds, LookupDone, LookupResult, Status
from serving_gateway.inference.codec import Codec, Tensors

EntityId = int | str


class FloatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The same for rows of plain numbers, which the JSON decoder checks as it reads them."""

    data: list[list[float]]
    client_id: str | None = None


class Rows(msgspec.Struct, frozen=True):
    """Rows ready to be sent, and as the client (or the feature store) gave them."""

    tensors: Tensors
    count: int
    source: FeatureSource = FeatureSource.PAYLOAD
    data: list[list[Any]] | None = None
    instances: list[dict[str, Any]] | None = None


class Features(Protocol):
    """Looks features up; see `serving_gateway.features.reader`."""

    def look_up(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[EntityId],
        nullable: frozenset[str],
        done: LookupDone,
    ) -> None:
        """Call `done` later with one result per id, values in the order of `names`, or an error."""


class RowReader:
    """Turns bodies into rows.

    Args:
        max_rows: most rows of one request.
        features: looks features up; None where that is switched off.
    """

    def __init__(self, max_rows: int, features: Features | None) -> None:
        self._max_rows = max_rows
        self._features = features

    def plain(self, codec: Codec, request: PredictRequest | FloatRequest) -> Rows | None:
        """The rows of a request that names no entity; None when it names some.

        Raises:
            InvalidInput, TooLarge: the rows are wrong; `field` says where.
        """
        if isinstance(request, FloatRequest):
            self._check_count(codec, "data", request.data)
            return Rows(codec.encode_floats(request.data), len(request.data), data=request.data)
        if request.entity_id is not None or request.entity_ids is not None:
            return None
        return self._payload(codec, request)

    async def of_entities(self, codec: Codec, request: PredictRequest) -> Rows:
        """The rows of a request that names entities.

        Raises:
            InvalidInput, TooLarge: the request is wrong; `field` says where.
            EntityUnusable: it names an entity that the store has no fresh values for, and has no
                row for it either.
            FeaturesUnavailable: the store does not answer, and the request has no rows.
        """
        ids = self._ids(codec, request)
        has_payload = self._check_payload(request, len(ids))
        service = codec.signature.feature_service
        if self._features is None or service is None:
            if has_payload:
                return self._payload(codec, request)
            raise _switched_off(request, self._features is None)
        try:
            found = await _look_up(self._features, service, codec, ids)
        except InvalidEntityIds as error:
            if request.entity_id is None:
                raise
            raise EntityUnusable(
                f"entity_id {error.wrong[0]}", field="entity_id", code=error.code
            ) from error
        except FeaturesUnavailable:
            if not has_payload:
                raise
            payload = self._payload(codec, request)
            return msgspec.structs.replace(payload, source=FeatureSource.FALLBACK)
        missing = [i for i, one in enumerate(found) if one.status is not Status.FOUND]
        if missing and not has_payload:
            raise _missing(request, missing[0], ids[missing[0]], found[missing[0]])
        source = FeatureSource.FALLBACK if missing else FeatureSource.FEAST
        return _merged(codec, request, found, source)

    def _payload(self, codec: Codec, request: PredictRequest) -> Rows:
        data, instances = request.data, request.instances
        if data is not None and instances is None:
            self._check_count(codec, "data", data)
            return Rows(codec.encode(data), len(data), data=data)
        if instances is not None and data is None:
            self._check_count(codec, "instances", instances)
            return Rows(codec.encode_instances(instances), len(instances), instances=instances)
        raise InvalidInput(
            "Send the rows either as data or as instances.", field="data", code="missing_field"
        )

    def _ids(self, codec: Codec, request: PredictRequest) -> list[EntityId]:
        if request.entity_id is not None:
            if request.entity_ids is not None:
                raise InvalidInput(
                    "Send either entity_id or entity_ids.", field="entity_ids", code="too_many"
                )
            return [request.entity_id]
        ids = request.entity_ids or []
        if not ids:
            raise InvalidInput("entity_ids is empty.", field="entity_ids", code="empty")
        self._check_count(codec, "entity_ids", ids)
        return ids

    def _check_payload(self, request: PredictRequest, entities: int) -> bool:
        """Whether there are rows to fall back to; they must be as many as the entities."""
        if request.data is not None and request.instances is not None:
            raise InvalidInput(
                "Send the rows either as data or as instances.", field="data", code="too_many"
            )
        field = "data" if request.data is not None else "instances"
        rows: Sequence[object] | None = request.instances
        if request.data is not None:
            rows = request.data
        if rows is not None and len(rows) != entities:
            raise InvalidInput(
                f"{field} has {len(rows)} rows for {entities} entities; send one for each.",
                field=field,
                code="wrong_length",
            )
        return rows is not None

    def _check_count(self, codec: Codec, field: str, rows: Sequence[object]) -> None:
        most = min(self._max_rows, codec.signature.max_batch_rows)
        if len(rows) > most:
            raise TooLarge(
                f"{field} has {len(rows)} rows; at most {most} are taken in one request.",
                field=field,
                code="too_many_rows",
            )


async def _look_up(
    features: Features, service: str, codec: Codec, ids: Sequence[EntityId]
) -> list[LookupResult]:
    future: asyncio.Future[list[LookupResult]] = asyncio.get_running_loop().create_future()

    def done(outcome: list[LookupResult] | GatewayError) -> None:
        if future.done():
            return
        if isinstance(outcome, GatewayError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    features.look_up(service, codec.names, ids, codec.nullable, done)
    return await future


def _merged(
    codec: Codec, request: PredictRequest, found: Sequence[LookupResult], source: FeatureSource
) -> Rows:
    """Rows of the store, and of the request where the store has none."""
    if request.data is not None:
        pairs = zip(found, request.data, strict=True)
        data = [given if one.values is None else one.values for one, given in pairs]
        tensors = codec.encode(data)
    elif request.instances is not None:
        instances = [
            given if one.values is None else dict(zip(codec.names, one.values, strict=True))
            for one, given in zip(found, request.instances, strict=True)
        ]
        tensors = codec.encode_instances(instances)
        return Rows(tensors, len(found), source, instances=instances)
    else:
        data = [one.values or [] for one in found]
        plain = all(type(value) is float and isfinite(value) for row in data for value in row)
        tensors = codec.encode_floats(data) if plain else codec.encode(data, "entity_ids")
    return Rows(tensors, len(found), source, data=data)


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


def _switched_off(request: PredictRequest, off: bool) -> EntityUnusable:
    why = (
        "This gateway has no feature store (GATEWAY_FEAST_DIR)"
        if off
        else "The version that answers was registered without a feature service"
    )
    return EntityUnusable(
        f"{why}; send the rows as data or instances.",
        field="entity_ids" if request.entity_id is None else "entity_id",
        code="features_off",
    )
