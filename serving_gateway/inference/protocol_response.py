"""Responses of the Open Inference Protocol from a version's outputs; pure functions."""

from __future__ import annotations

from typing import Any

import msgspec

from serving_gateway.contract import DType, InferenceRequest
from serving_gateway.errors import BadUpstreamAnswer, InvalidInput
from serving_gateway.inference.bodies import encode_json, encode_list
from serving_gateway.inference.coerce import invalid_value
from serving_gateway.inference.offload import LARGE_BYTES
from serving_gateway.inference.tensors import FLOATS, FORMATS, TensorView, all_finite, unpack


class ProtocolResponse(msgspec.Struct, frozen=True):
    """Body of an inference response; `header_length` is that of its JSON part, if more follows."""

    body: bytes
    header_length: int | None


def encode_response(
    request: InferenceRequest, tensors: list[TensorView], model_name: str, version: int
) -> ProtocolResponse:
    """Write the outputs as requested; `InvalidInput` or `BadUpstreamAnswer` where impossible."""
    binary: list[memoryview] = []
    outputs: list[dict[str, Any]] = []
    for tensor, is_binary in _select(request, tensors):
        shape = tensor.shape
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
        if is_binary:
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
        else:
            elements = _elements(tensor)
            is_large = len(tensor.data) > LARGE_BYTES
            output["data"] = msgspec.Raw(encode_list(elements)) if is_large else elements
        outputs.append(output)
    head: dict[str, Any] = {"model_name": model_name, "model_version": str(version)}
    if request.id is not None:
        head["id"] = request.id
    text = encode_json(head | {"outputs": outputs})
    return ProtocolResponse(b"".join([text, *binary]), len(text) if binary else None)


def _select(request: InferenceRequest, tensors: list[TensorView]) -> list[tuple[TensorView, bool]]:
    """The requested tensors, and whether each is to be binary."""
    is_binary = (request.parameters or {}).get("binary_data_output") is True
    if not request.outputs:
        return [(tensor, is_binary) for tensor in tensors]
    by_name = {tensor.name: tensor for tensor in tensors}
    chosen: list[tuple[TensorView, bool]] = []
    for i, wanted in enumerate(request.outputs):
        tensor = by_name.get(wanted.name)
        if tensor is None:
            what = f"is {wanted.name[:200]!r}; this model has {', '.join(by_name)}."
            raise invalid_value(f"outputs[{i}].name", what, code="unknown_output")
        own = (wanted.parameters or {}).get("binary_data") is True
        chosen.append((tensor, is_binary or own))
    return chosen


def _elements(tensor: TensorView) -> list[Any]:
    if tensor.datatype not in FORMATS and tensor.datatype != DType.BYTES:
        raise InvalidInput(
            f"The output {tensor.name} is {tensor.datatype}, which JSON cannot hold; ask for it "
            "as a binary tensor.",
            field="outputs",
            code="binary_only",
        )
    elements = unpack(tensor)
    if tensor.datatype in FLOATS and not all_finite(elements):
        raise BadUpstreamAnswer(
            f"The output {tensor.name} holds NaN or infinity, which JSON cannot hold; ask for it "
            "as a binary tensor.",
            code="not_finite_output",
        )
    return elements
