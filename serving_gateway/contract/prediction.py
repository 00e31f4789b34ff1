"""Bodies of `POST /predict`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from serving_gateway.contract.struct import NativeType, Struct

EntityId = int | str
Scalar = bool | int | float | str | None


class PredictRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /predict`.

    The rows come as `data`, as named `instances`, or from the feature store by `entity_id` or
    `entity_ids`. With an entity, `data` or `instances` are what to take where the store has no
    fresh values, one row for each entity.
    """

    data: list[list[Scalar]] | None = None
    instances: list[dict[str, Scalar]] | None = None
    client_id: str | None = None
    entity_id: EntityId | None = None
    entity_ids: list[EntityId] | None = None


class FeatureSource(StrEnum):
    """Where the rows of an answer came from."""

    PAYLOAD = "payload"
    FEAST = "feast"
    FALLBACK = "fallback"
    """The payload, for at least one entity that the feature store could not serve."""

    __hash__ = str.__hash__  # an enumeration's own costs a call in Python at each look-up


class PredictResponse(NativeType, msgspec.Struct):
    """Body of a prediction: the answers, and which version gave them."""

    predictions: list[Any]
    probabilities: list[list[float]] | None
    model_name: str
    variant: str
    version: int
    run_id: str
    generation: int
    feature_source: FeatureSource
    fallback: str | None = None
    """Why A answered although the client belongs to B's share."""
