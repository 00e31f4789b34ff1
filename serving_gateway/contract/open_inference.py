"""Bodies of `/v2`, the Open Inference Protocol as KServe and Triton speak it."""

from __future__ import annotations

from typing import Any

from serving_gateway.contract.struct import Struct


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
    """A tensor that a model reads or answers; -1 stands for a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class EffectiveModelMetadata(Struct, frozen=True):
    """Body of `GET /v2/models/{model}`; `versions` are those that requests may be answered by."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


class InputTensor(Struct, frozen=True):
    """An input: `data` in JSON, or `parameters.binary_data_size` bytes after the JSON part."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class RequestedOutput(Struct, frozen=True):
    """An output that is wanted; `parameters.binary_data` asks for it in binary."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(Struct, frozen=True):
    """Body of `POST /v2/models/{model}/infer`.

    `parameters.client_id` keeps a client on its variant, as the header `X-Client-Id` does.
    """

    inputs: tuple[InputTensor, ...]
    outputs: tuple[RequestedOutput, ...] | None = None
    id: str | None = None
    parameters: dict[str, Any] | None = None


class OutputTensor(Struct, frozen=True):
    """An output: `data` in JSON, or `parameters.binary_data_size` bytes after the JSON part."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferenceResponse(Struct, frozen=True):
    """Body of an inference that was answered; `model_version` is the version that answered."""

    model_name: str
    model_version: str
    outputs: tuple[OutputTensor, ...]
    id: str | None = None
    parameters: dict[str, Any] | None = None
