"""Inference requests and responses on the wire to Triton: what repeats is worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType
from serving_gateway.errors import BadUpstreamAnswer
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.tensors import InputSpec, OutputTensor, Tensors, split_texts
from serving_gateway.triton.connections import TritonResponse

_CACHED: Final = 256
"""Heads kept of each kind: one for each number of rows, usually."""


class _OutputParameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _OutputParameters


class _ResponseHead(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


_decode_head: Final = msgspec.json.Decoder(_ResponseHead).decode
_encode: Final = msgspec.json.Encoder().encode


Layout = tuple[tuple[_Output, int, int], ...]
"""The outputs in a response, and where the bytes of each begin and end."""


class RequestBuilder:
    """Builds the HTTP requests of one version's inferences.

    Args:
        authority: host and port, for the Host header.
        prefix: path of the server, in front of /v2.
        model_name: the model in Triton.
        version: named explicitly in each request (I2).
        inputs: the model's inputs.
        tail: JSON members behind the inputs, such as `"outputs": [...]`, without braces.
    """

    def __init__(
        self,
        authority: str,
        prefix: str,
        model_name: str,
        version: int,
        inputs: tuple[InputSpec, ...],
        tail: bytes,
    ) -> None:
        path = f"{prefix}/v2/models/{model_name}/versions/{version}/infer"
        self._start = (
            f"POST {path} HTTP/1.1\r\nHost: {authority}\r\n"
            "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: "
        ).encode()
        self._inputs = inputs
        self._tail = tail
        self._has_fixed_sizes = all(item.dtype is not DType.BYTES for item in inputs)
        self._heads: dict[int, bytes] = {}

    def build(
        self,
        tensors: Tensors,
        rows: int,
        traceparent: bytes | None = None,
        tail: bytes | None = None,
    ) -> bytes:
        """The bytes of a whole HTTP request for `rows` rows, in the given W3C trace.

        Args:
            tensors: one buffer per input.
            rows: first dimension of each.
            traceparent: trace context to pass on.
            tail: JSON members instead of the usual ones.
        """
        head = self._heads.get(rows) if tail is None else None
        if head is None:
            head = self._head([len(tensor) for tensor in tensors], rows, tail or self._tail)
            # With fixed-size elements the number of rows determines every length.
            if tail is None and self._has_fixed_sizes and len(self._heads) < _CACHED:
                self._heads[rows] = head
        if traceparent is not None:
            head = head.replace(b"\r\n", b"\r\ntraceparent: %s\r\n" % traceparent, 1)
        return head + tensors[0] if len(tensors) == 1 else b"".join((head, *tensors))

    def _head(self, sizes: Sequence[int], rows: int, tail: bytes) -> bytes:
        inputs = [
            {
                "name": item.name,
                "shape": [rows, item.width],
                "datatype": item.dtype.value,
                "parameters": {"binary_data_size": size},
            }
            for item, size in zip(self._inputs, sizes, strict=True)
        ]
        text = b'{"inputs":%b,%b}' % (_encode(inputs), tail)
        length = len(text) + sum(sizes)
        return b"%s%d\r\nContent-Length: %d\r\n\r\n%s" % (self._start, len(text), length, text)


def named_outputs(names: Sequence[str]) -> bytes:
    """The members of a request that ask for these outputs as binary tensors."""
    outputs: list[dict[str, Any]] = [
        {"name": name, "parameters": {"binary_data": True}} for name in names
    ]
    return b'"outputs":%b' % _encode(outputs)


ALL_OUTPUTS: Final = b'"parameters":{"binary_data_output":true}'
"""The members of a request that ask for every output as a binary tensor."""


class InferenceOutputs:
    """The outputs of one inference; what several requests share is read once."""

    __slots__ = ("_codec", "_predicted", "_texts", "_layout", "_view", "rows")

    def __init__(self, layout: Layout, body: bytes, rows: int, codec: Codec) -> None:
        self._layout = layout
        self._codec = codec
        self._predicted: ModelOutput | None = None
        self._texts: dict[str, list[bytes]] = {}
        self._view = memoryview(body)
        self.rows = rows

    def predicted(self) -> ModelOutput:
        """The predictions for all rows.

        Raises:
            BadUpstreamAnswer: they cannot be read by the model's signature.
        """
        if self._predicted is None:
            self._predicted = self._codec.decode(self._tensors(), self.rows)
        return self._predicted

    def part(self, start: int, stop: int) -> list[OutputTensor] | None:
        """All outputs for rows `start` to `stop`; None when one of them is not by rows.

        Raises:
            BadUpstreamAnswer: a tensor ends within an element.
        """
        tensors = self._tensors()
        if stop - start == self.rows:
            return tensors
        if any(not tensor.shape or tensor.shape[0] != self.rows for tensor in tensors):
            return None
        return [self._cut(tensor, start, stop) for tensor in tensors]

    def _cut(self, tensor: OutputTensor, start: int, stop: int) -> OutputTensor:
        shape = (stop - start, *tensor.shape[1:])
        if tensor.datatype != "BYTES":
            size = len(tensor.data) // self.rows
            part = tensor.data[start * size : stop * size]
            return OutputTensor(tensor.name, tensor.datatype, shape, part)
        texts = self._texts.get(tensor.name)
        if texts is None:
            texts = self._texts[tensor.name] = split_texts(tensor.data, tensor.name)
        width = len(texts) // self.rows
        data = b"".join(
            [len(one).to_bytes(4, "little") + one for one in texts[start * width : stop * width]]
        )
        return OutputTensor(tensor.name, tensor.datatype, shape, memoryview(data))

    def _tensors(self) -> list[OutputTensor]:
        view = self._view
        return [
            OutputTensor(output.name, output.datatype, output.shape, view[start:stop])
            for output, start, stop in self._layout
        ]


class ResponseReader:
    """Reads the responses of one version; equal heads are parsed once.

    Args:
        version: the one that must have answered (I2).
        codec: of the version.
    """

    def __init__(self, version: int, codec: Codec) -> None:
        self._version = version
        self._codec = codec
        self._layouts: dict[bytes, Layout] = {}

    def read(self, response: TritonResponse, rows: int) -> InferenceOutputs:
        """The outputs in a response with status 200.

        Raises:
            BadUpstreamAnswer: unreadable, or made by another version than the one asked.
        """
        body = response.body
        size = response.inference_header_length
        head = body if size is None else body[:size]
        layout = self._layouts.get(head)
        if layout is None:
            layout = self._parse(head)
            if len(self._layouts) >= _CACHED:
                self._layouts.clear()
            self._layouts[head] = layout
        if layout and layout[-1][2] > len(body):
            raise BadUpstreamAnswer(f"Triton's answer ends within {layout[-1][0].name!r}.")
        return InferenceOutputs(layout, body, rows, self._codec)

    def _parse(self, head: bytes) -> Layout:
        try:
            parsed = _decode_head(head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadUpstreamAnswer(f"Triton's inference answer is unreadable: {error}.") from error
        if parsed.model_version != str(self._version):
            raise BadUpstreamAnswer(
                f"Triton answered by version {parsed.model_version} when asked for version "
                f"{self._version}; the answer was dropped.",
                code="version_mismatch",
            )
        layout: list[tuple[_Output, int, int]] = []
        start = len(head)
        for output in parsed.outputs:
            stop = start + output.parameters.binary_data_size
            layout.append((output, start, stop))
            start = stop
        return tuple(layout)
