"""Triton's side of the Open Inference Protocol with binary tensors: bytes to types and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import BadUpstreamAnswer, InferenceRefused, VariantUnavailable
from serving_gateway.inference.codec import Codec, Input, OutputTensor, Tensors
from serving_gateway.triton.exchange import TritonResponse

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


class _OutputParameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _OutputParameters


class _InferenceHead(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


class _ErrorBody(msgspec.Struct):
    error: str = ""


metadata_decoder = msgspec.json.Decoder(ModelMetadata)
_head_decoder = msgspec.json.Decoder(_InferenceHead)
_error_decoder = msgspec.json.Decoder(_ErrorBody)


def error_text(body: bytes) -> str:
    """The reason in an error answer of Triton."""
    try:
        return _error_decoder.decode(body).error or "no reason given"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode(errors="replace") or "no reason given"


def parse_inference(answer: TritonResponse, version: int) -> list[OutputTensor]:
    """The output tensors of an inference answer.

    Raises:
        InferenceRefused: Triton refused; the caller finds out whether the input or the version
            is to blame.
        BadUpstreamAnswer: unreadable, or made by another version than the one asked (I2).
    """
    if answer.status != 200:
        reason = error_text(answer.body)
        raise InferenceRefused(
            f"Triton refused the inference ({answer.status}): {reason}",
            upstream_status=answer.status,
        )
    body = answer.body
    size = answer.inference_header_length
    try:
        head = _head_decoder.decode(body if size is None else body[:size])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadUpstreamAnswer(f"Triton's inference answer is unreadable: {error}.") from error
    if head.model_version != str(version):
        raise BadUpstreamAnswer(
            f"Triton answered by version {head.model_version} when asked for version {version}; "
            "the answer was dropped.",
            code="version_mismatch",
        )
    outputs: list[OutputTensor] = []
    view = memoryview(body)
    start = size or 0
    for output in head.outputs:
        stop = start + output.parameters.binary_data_size
        if stop > len(body):
            raise BadUpstreamAnswer(f"Triton's answer ends within the output {output.name!r}.")
        outputs.append(OutputTensor(output.name, output.datatype, output.shape, view[start:stop]))
        start = stop
    return outputs


class InferenceRequests:
    """Builds the inference requests of one version; what repeats is built once.

    Args:
        authority: host and port, for the Host header.
        prefix: path of the server, in front of /v2.
        model_name: the model in Triton.
        version: named explicitly in each request (I2).
        codec: tells inputs and outputs.
    """

    def __init__(
        self, authority: str, prefix: str, model_name: str, version: int, codec: Codec
    ) -> None:
        path = f"{prefix}/v2/models/{model_name}/versions/{version}/infer"
        self._start = (
            f"POST {path} HTTP/1.1\r\nHost: {authority}\r\n"
            "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: "
        ).encode()
        self._inputs: tuple[Input, ...] = codec.inputs
        self._outputs = [
            {"name": name, "parameters": {"binary_data": True}} for name in codec.outputs
        ]
        self._fixed_sizes = all(item.dtype is not DType.BYTES for item in codec.inputs)
        self._heads: dict[int, bytes] = {}

    def build(self, tensors: Tensors, rows: int, traceparent: bytes | None = None) -> bytes:
        """The bytes of a whole HTTP request for `rows` rows, in the given W3C trace."""
        head = self._heads.get(rows)
        if head is None:
            head = self._head([len(tensor) for tensor in tensors], rows)
            # With fixed-size elements the number of rows tells every length.
            if self._fixed_sizes and len(self._heads) < _CACHED_HEADS:
                self._heads[rows] = head
        if traceparent is not None:
            head = head.replace(b"\r\n", b"\r\ntraceparent: %s\r\n" % traceparent, 1)
        return head + tensors[0] if len(tensors) == 1 else b"".join((head, *tensors))

    def _head(self, sizes: Sequence[int], rows: int) -> bytes:
        inputs = [
            {
                "name": item.name,
                "shape": [rows, item.width],
                "datatype": item.dtype.value,
                "parameters": {"binary_data_size": size},
            }
            for item, size in zip(self._inputs, sizes, strict=True)
        ]
        text = msgspec.json.encode({"inputs": inputs, "outputs": self._outputs})
        length = len(text) + sum(sizes)
        return b"%s%d\r\nContent-Length: %d\r\n\r\n%s" % (self._start, len(text), length, text)


def signature_from_metadata(found: ModelMetadata, version: int) -> Signature:
    """The signature that Triton's own metadata imply, for a version without a recorded one.

    One 2-D input is a packed row; several inputs of one column each are one feature each.

    Raises:
        VariantUnavailable: the inputs are of neither form.
    """
    known = {dtype.value for dtype in DType}
    for tensor in found.inputs:
        if tensor.datatype not in known:
            raise VariantUnavailable(
                f"Version {version} reads {tensor.name} as {tensor.datatype}, which rows in JSON "
                "cannot be turned into here.",
                code="unsupported_signature",
            )
    widths = [tensor.shape[1] if len(tensor.shape) == 2 else 0 for tensor in found.inputs]
    if len(widths) == 1 and widths[0] > 0:
        (tensor,) = found.inputs
        dtype = DType(tensor.datatype)
        packed: str | None = tensor.name
        features = tuple(
            Feature(f"{tensor.name}_{i}", dtype, nullable=dtype is DType.BYTES)
            for i in range(widths[0])
        )
    elif found.inputs and all(width == 1 for width in widths):
        packed = None
        # Nobody recorded whether a text may be missing, so an empty one is taken for a text.
        features = tuple(
            Feature(t.name, DType(t.datatype), nullable=t.datatype == DType.BYTES)
            for t in found.inputs
        )
    else:
        shapes = ", ".join(f"{t.name} {list(t.shape)}" for t in found.inputs)
        raise VariantUnavailable(
            f"Version {version} has no recorded signature, and its inputs ({shapes}) do not tell "
            "how a row maps to them. Register it with a signature.",
            code="unsupported_signature",
        )
    names = [tensor.name for tensor in found.outputs]
    plain = Signature(features=features, packed_input=packed)
    label = plain.label_output if plain.label_output in names else names[0]
    scores = plain.probabilities_output
    return Signature(
        features=features,
        packed_input=packed,
        label_output=label,
        probabilities_output=scores if scores in names else None,
    )
