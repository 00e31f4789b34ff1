"""Inference requests and responses on the wire to Triton: what repeats is worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType
from serving_gateway.errors import BadUpstreamAnswer
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.tensors import (
    FORMATS,
    InputSpec,
    Tensors,
    TensorView,
    all_finite,
    chunks,
    split_texts,
)
from serving_gateway.triton.exchange import TritonResponse

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


class OutputLayout:
    """Where the outputs in a response lie, worked out once for all responses with equal heads.

    Args:
        outputs: in the order of their bytes.
        start: where the first begins.
        rows: of the inference.
        codec: of the version.
    """

    __slots__ = ("_codec", "_columns", "rows", "stop", "tensors_at")

    def __init__(self, outputs: Sequence[_Output], start: int, rows: int, codec: Codec) -> None:
        self.rows = rows
        self._codec = codec
        self.tensors_at: list[tuple[_Output, int, int]] = []
        for output in outputs:
            stop = start + output.parameters.binary_data_size
            self.tensors_at.append((output, start, stop))
            start = stop
        self.stop = start
        self._columns = self._plain_columns()

    def tensors(self, body: bytes) -> list[TensorView]:
        """All output tensors of a response."""
        view = memoryview(body)
        return [
            TensorView(output.name, output.datatype, output.shape, view[start:stop])
            for output, start, stop in self.tensors_at
        ]

    def predicted(self, body: bytes) -> ModelOutput:
        """The predictions of a response.

        Raises:
            BadUpstreamAnswer: they cannot be read by the model's signature.
        """
        if self._columns is None:
            return self._codec.decode(self.tensors(body), self.rows)
        labels, start, stop, kind, width = self._columns
        flat = memoryview(body)[start:stop].cast(kind).tolist()  # type: ignore[call-overload]  # one of `FORMATS`
        probabilities = [flat] if self.rows == 1 else chunks(flat, width)
        predictions = memoryview(body)[labels[0] : labels[1]].cast(labels[2]).tolist()  # type: ignore[call-overload]  # one of `FORMATS`
        return ModelOutput(predictions, probabilities, all_finite(flat))

    def _plain_columns(self) -> tuple[tuple[int, int, str], int, int, str, int] | None:
        """The usual case: one whole number per row as label, and probabilities."""
        by_name = {output.name: (output, start, stop) for output, start, stop in self.tensors_at}
        names = self._codec.outputs
        if len(names) != 2 or not by_name.keys() >= {*names} or self._codec.has_bool_labels:
            return None
        (label, *at), (scores, start, stop) = by_name[names[0]], by_name[names[1]]
        rows = self.rows
        is_plain = (
            label.datatype in {"INT32", "INT64"}
            and label.shape in {(rows,), (rows, 1)}
            and at[1] - at[0] == rows * FORMATS[label.datatype][1]
            and scores.datatype in {"FP32", "FP64"}
            and len(scores.shape) == 2
            and scores.shape[0] == rows
            and scores.shape[1] > 0
            and stop - start == rows * scores.shape[1] * FORMATS[scores.datatype][1]
        )
        if not is_plain:
            return None
        labels = (at[0], at[1], FORMATS[label.datatype][0])
        return labels, start, stop, FORMATS[scores.datatype][0], scores.shape[1]


class InferenceOutputs:
    """The outputs of one inference; what several requests share is read once."""

    __slots__ = ("_body", "_layout", "_predicted", "_texts", "rows")

    def __init__(self, layout: OutputLayout, body: bytes) -> None:
        self._layout = layout
        self._body = body
        self._predicted: ModelOutput | None = None
        self._texts: dict[str, list[bytes]] | None = None
        self.rows = layout.rows

    def predicted(self) -> ModelOutput:
        """The predictions for all rows.

        Raises:
            BadUpstreamAnswer: they cannot be read by the model's signature.
        """
        if self._predicted is None:
            self._predicted = self._layout.predicted(self._body)
        return self._predicted

    def part(self, start: int, stop: int) -> list[TensorView] | None:
        """All outputs for rows `start` to `stop`; None when one of them is not by rows.

        Raises:
            BadUpstreamAnswer: a tensor ends within an element.
        """
        tensors = self._layout.tensors(self._body)
        if stop - start == self.rows:
            return tensors
        if any(not tensor.shape or tensor.shape[0] != self.rows for tensor in tensors):
            return None
        return [self._cut(tensor, start, stop) for tensor in tensors]

    def _cut(self, tensor: TensorView, start: int, stop: int) -> TensorView:
        shape = (stop - start, *tensor.shape[1:])
        if tensor.datatype != "BYTES":
            size = len(tensor.data) // self.rows
            part = tensor.data[start * size : stop * size]
            return TensorView(tensor.name, tensor.datatype, shape, part)
        if self._texts is None:
            self._texts = {}
        texts = self._texts.get(tensor.name)
        if texts is None:
            texts = self._texts[tensor.name] = split_texts(tensor.data, tensor.name)
        width = len(texts) // self.rows
        data = b"".join(
            [len(one).to_bytes(4, "little") + one for one in texts[start * width : stop * width]]
        )
        return TensorView(tensor.name, tensor.datatype, shape, memoryview(data))


class ResponseReader:
    """Reads the responses of one version; equal heads are parsed once.

    Args:
        version: the one that must have answered (I2).
        codec: of the version.
    """

    def __init__(self, version: int, codec: Codec) -> None:
        self._version = version
        self._codec = codec
        self._layouts: dict[tuple[bytes, int], OutputLayout] = {}

    def read(self, response: TritonResponse, rows: int) -> InferenceOutputs:
        """The outputs in a response with status 200.

        Raises:
            BadUpstreamAnswer: unreadable, or made by another version than the one asked.
        """
        body = response.body
        size = response.inference_header_length
        head = body if size is None else body[:size]
        layout = self._layouts.get((head, rows))
        if layout is None:
            layout = self._parse(head, rows)
            if len(self._layouts) >= _CACHED:
                self._layouts.clear()
            self._layouts[head, rows] = layout
        if layout.stop > len(body):
            raise BadUpstreamAnswer("Triton's answer ends within a tensor.")
        return InferenceOutputs(layout, body)

    def _parse(self, head: bytes, rows: int) -> OutputLayout:
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
        return OutputLayout(parsed.outputs, len(head), rows, self._codec)
