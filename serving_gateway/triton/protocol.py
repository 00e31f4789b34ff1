"""Triton's side of the Open Inference Protocol with binary tensors: bytes to types and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import BadUpstreamAnswer, InferenceRefused, VariantUnavailable
from serving_gateway.inference.codec import Codec, Input, OutputTensor, Tensors
from serving_gateway.triton.connections import Answer

_CACHED_HEADS: Final = 256


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output as Triton's model metadata describe it; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """Triton's description of a model; `versions` are those that are READY."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    platform: str = ""


class _ErrorBody(msgspec.Struct):
    error: str = ""


metadata_decoder = msgspec.json.Decoder(ModelMetadata)
_error_decoder = msgspec.json.Decoder(_ErrorBody)


def error_text(body: bytes) -> str:
    """The reason in an error answer of Triton."""
    try:
        return _error_decoder.decode(body).error or "no reason given"
    except msgspec.DecodeError:
        return body[:200].decode(errors="replace") or "no reason given"
