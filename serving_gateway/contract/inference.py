"""Bodies of `/predict` and of `/v2` (the Open Inference Protocol), and of every error."""

from __future__ import annotations

from collections.abc import Mapping
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

    Where features have several keys, or only the caller knows some of them, `entities` holds the
    keys by name and `request` these features by name: an object each, or lists of as many. What
    `request` holds of a stored feature is taken instead of the stored value.
    """

    data: list[list[Scalar]] | None = None
    instances: list[dict[str, Scalar]] | None = None
    client_id: str | None = None
    entity_id: EntityId | None = None
    entity_ids: list[EntityId] | None = None
    entities: dict[str, EntityId] | list[dict[str, EntityId]] | None = None
    request: dict[str, Scalar] | list[dict[str, Scalar]] | None = None


class FeatureSource(StrEnum):
    """Where the rows of an answer came from."""

    PAYLOAD = "payload"
    FEAST = "feast"
    FALLBACK = "fallback"
    """The payload, for at least one entity that the feature store could not serve."""
    OVERRIDE = "override"
    """The caller, for at least one feature that the feature store has."""

    __hash__ = str.__hash__  # an enumeration's own costs a Python call at each look-up


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
    features_as_of: str | None = None
    """When the oldest stored value of the rows was observed (RFC 3339); null without any."""
    prediction_id: str = ""
    """Names the response in the prediction log, and in reports of outcomes."""


class ServerLive(Struct, frozen=True):
    """Body of `GET /v2/health/live`."""

    live: bool = True


class Ready(Struct, frozen=True):
    """Body of `GET /v2/health/ready` and `GET /v2/models/{model}/ready`."""

    ready: bool


class ServerMetadata(Struct, frozen=True):
    """Body of `GET /v2`."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorDescription(Struct, frozen=True):
    """A tensor of a model; -1 stands for a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Struct, frozen=True):
    """Body of `GET /v2/models/{model}`; `versions` are READY, for the gateway also effective."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    platform: str = ""


class Tensor(Struct, frozen=True):
    """`data` in JSON, or `parameters.binary_data_size` bytes after the JSON part."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Scalar | list[Scalar]] | None = None
    parameters: dict[str, Any] | None = None


class RequestedOutput(Struct, frozen=True):
    """An output that is wanted; `parameters.binary_data` asks for it in binary."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(Struct, frozen=True):
    """Body of `POST /v2/models/{model}/infer`.

    `parameters.client_id` keeps a client on its variant, as the header `X-Client-Id` does.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class InferenceResponse(Struct, frozen=True):
    """Body of an inference that was answered; `model_version` is the version that answered."""

    model_name: str
    model_version: str
    outputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: dict[str, Any] | None = None


class ErrorResponse(Struct, frozen=True, omit_defaults=True):
    """Body of every answer that is not a success."""

    status: str
    code: str
    error: str
    request_id: str | None = None
    field: str | None = None
    retry_after: int | None = None
    still_served: Mapping[str, int] | None = None
    """Versions by variant that the gateway goes on routing to."""
