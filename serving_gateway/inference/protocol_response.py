"""Responses of the Open Inference Protocol from a version's outputs: pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from serving_gateway.contract import DType
from serving_gateway.errors import BadUpstreamAnswer, InvalidInput
from serving_gateway.inference.bodies import encode_json
from serving_gateway.inference.protocol_request import ProtocolRequest, WantedOutput
from serving_gateway.inference.tensors import FORMATS, TensorView, all_finite, unpack

_FLOATS: Final = frozenset(["FP32", "FP64"])


class ProtocolResponse(msgspec.Struct, frozen=True):
    """Body of an inference response; `header_length` is that of its JSON part, if more follows."""

    body: bytes
    header_length: int | None


def encode_response(
    request: ProtocolRequest, tensors: list[TensorView], model_name: str, version: int
) -> ProtocolResponse:
    """Write the outputs as the client asked for them.

    Raises:
        InvalidInput: the model does not have an output that was asked for.
        BadUpstreamAnswer: JSON cannot hold an output.
    """
    binary: list[memoryview] = []
    described: list[dict[str, Any]] = []
    for tensor, is_binary in _chosen(request, tensors):
        one: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if is_binary:
            one["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
        else:
            one["data"] = _elements(tensor)
        described.append(one)
    head: dict[str, Any] = {"model_name": model_name, "model_version": str(version)}
    if request.id is not None:
        head["id"] = request.id
    head["outputs"] = described
    text = encode_json(head)
    if not binary:
        return ProtocolResponse(text, None)
    return ProtocolResponse(b"".join([text, *binary]), len(text))


def _chosen(request: ProtocolRequest, tensors: list[TensorView]) -> list[tuple[TensorView, bool]]:
    if request.outputs is None:
        return [(tensor, request.is_binary) for tensor in tensors]
    by_name = {tensor.name: tensor for tensor in tensors}
    chosen: list[tuple[TensorView, bool]] = []
    for i, wanted in enumerate(request.outputs):
        chosen.append((_named(by_name, wanted, i), wanted.is_binary or request.is_binary))
    return chosen


def _named(by_name: dict[str, TensorView], wanted: WantedOutput, i: int) -> TensorView:
    tensor = by_name.get(wanted.name)
    if tensor is None:
        raise InvalidInput(
            f"outputs[{i}].name is {wanted.name[:200]!r}; this model has {', '.join(by_name)}.",
            field=f"outputs[{i}].name",
            code="unknown_output",
        )
    return tensor


def _elements(tensor: TensorView) -> list[Any]:
    if tensor.datatype not in FORMATS and tensor.datatype != DType.BYTES:
        raise InvalidInput(
            f"The output {tensor.name} is {tensor.datatype}, which JSON cannot hold; ask for it "
            "as a binary tensor.",
            field="outputs",
            code="binary_only",
        )
    elements = unpack(tensor)
    if tensor.datatype in _FLOATS and not all_finite(elements):
        raise BadUpstreamAnswer(
            f"The output {tensor.name} holds NaN or infinity, which JSON cannot hold; ask for it "
            "as a binary tensor.",
            code="not_finite_output",
        )
    return elements
