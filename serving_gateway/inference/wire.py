"""Inference requests and responses on the wire to Triton: repeated parts are built once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, Final, NamedTuple

import msgspec

from serving_gateway.contract import DType, Signature
from serving_gateway.errors import BadUpstreamAnswer
from serving_gateway.inference.bodies import encode_json
from serving_gateway.inference.codec import Codec, InputSpec, ModelOutput
from serving_gateway.inference.tensors import (
    FLOATS,
    FORMATS,
    Tensors,
    TensorView,
    all_finite,
    chunks,
    text_bounds,
    unpack,
)
from serving_gateway.telemetry.log_page import Answer, Place, Places
from serving_gateway.triton.exchange import TritonResponse

_CACHED: Final = 256
"""Cached heads of each kind: usually one for each number of rows."""
ALL_OUTPUTS: Final = b'"parameters":{"binary_data_output":true}'
"""The members of a request that ask for every output as a binary tensor."""


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


class RequestBuilder:
    """Builds the HTTP requests of one version's inferences, which name that version (I2).

    `tail` has JSON members behind the inputs, such as `"outputs": [...]`, without braces.
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
        """The whole HTTP request for `rows` rows, in a W3C trace; `tail` replaces the usual one."""
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
                "shape": [rows, len(item.columns)],
                "datatype": item.dtype.value,
                "parameters": {"binary_data_size": size},
            }
            for item, size in zip(self._inputs, sizes, strict=True)
        ]
        text = b'{"inputs":%b,%b}' % (encode_json(inputs), tail)
        length = len(text) + sum(sizes)
        return b"%s%d\r\nContent-Length: %d\r\n\r\n%s" % (self._start, len(text), length, text)


def named_outputs(names: Sequence[str]) -> bytes:
    """The members of a request that ask for these outputs as binary tensors."""
    return b'"outputs":%b' % encode_json(
        [{"name": name, "parameters": {"binary_data": True}} for name in names]
    )


class _Column(NamedTuple):
    """How one output is read from responses with the same head: flat, `width` elements per row."""

    read: Callable[[bytes, int], Iterable[Any]]
    start: int
    width: int
    is_float: bool


class OutputLayout:
    """Where the outputs lie, from byte `start` on, in all responses with equal heads."""

    __slots__ = ("_signature", "columns", "log_places", "places", "rows", "stop")

    def __init__(
        self, outputs: Sequence[_Output], start: int, rows: int, signature: Signature
    ) -> None:
        self.rows = rows
        self._signature = signature
        self.columns: tuple[_Column, _Column | None] | None = None
        self.log_places: Places | None = None
        self.places: list[tuple[_Output, slice]] = []
        for output in outputs:
            stop = start + output.parameters.binary_data_size
            self.places.append((output, slice(start, stop)))
            start = stop
        self.stop = start

    def find_columns(self) -> tuple[_Column, _Column | None]:
        """Labels, and probabilities if any; `BadUpstreamAnswer` if missing or of wrong shape."""
        signature = self._signature
        labels, scores = self._column(signature.label_output), signature.probabilities_output
        if self._has_boolean_labels:
            numbers = labels.read  # tensors hold booleans as numbers
            labels = labels._replace(read=lambda body, start: map(bool, numbers(body, start)))
        self.columns = labels, None if scores is None else self._column(scores)
        return self.columns

    def find_log_places(self) -> Places:
        """Where the prediction is, for the log; an output that is missing has no elements."""
        signature = self._signature
        labels, scores = signature.label_output, signature.probabilities_output
        outputs = self._place(labels), self._place(scores)
        self.log_places = places = (self.rows, self._has_boolean_labels, *outputs)
        return places

    def _place(self, name: str | None) -> Place:
        for output, place in reversed(self.places):
            if output.name == name and output.shape[:1] == (self.rows,):
                return output.datatype, place.start, place.stop, prod(output.shape) // self.rows
        return "", 0, 0, 0

    @property
    def _has_boolean_labels(self) -> bool:
        classes = self._signature.classes
        return bool(classes) and all(isinstance(label, bool) for label in classes)

    def _column(self, name: str) -> _Column:
        matches = [entry for entry in self.places if entry[0].name == name]
        if not matches:
            raise BadUpstreamAnswer(f"Triton's answer lacks the output {name!r}.")
        output, place = matches[-1]
        count, shape = prod(output.shape), list(output.shape)
        if not shape or shape[0] != self.rows or count < 1:
            raise BadUpstreamAnswer(f"Triton's {name} has shape {shape} for {self.rows} rows.")

        def read(body: bytes, _: int) -> list[Any]:
            view = memoryview(body)[place]
            flat = unpack(TensorView(name, output.datatype, output.shape, view))
            if len(flat) != count:
                raise BadUpstreamAnswer(f"Triton's {name} has {len(flat)} elements for {shape}.")
            return flat

        kind, size = FORMATS.get(output.datatype), output.parameters.binary_data_size
        is_plain = kind is not None and count * struct.calcsize(kind) == size
        return _Column(
            struct.Struct(f"<{count}{kind}").unpack_from if is_plain else read,
            place.start,
            count // self.rows,
            output.datatype in FLOATS,
        )


class InferenceOutputs:
    """The outputs of one inference of `tensors`; what several requests share is decoded once."""

    __slots__ = (
        "_bounds",
        "_model_output",
        "body",
        "cached_log_answer",
        "layout",
        "rows",
        "tensors",
    )

    def __init__(self, layout: OutputLayout, body: bytes, tensors: Tensors = ()) -> None:
        self.layout = layout
        self.body = body
        self.tensors = tensors
        self.cached_log_answer: Answer | None = None
        self._model_output: ModelOutput | None = None
        self._bounds: list[list[int]] | None = None
        self.rows = layout.rows

    def model_output(self) -> ModelOutput:
        """The predictions for all rows; `BadUpstreamAnswer` when the signature does not fit."""
        if self._model_output is not None:
            return self._model_output
        body, layout = self.body, self.layout
        (read, start, width, is_float), scores = layout.columns or layout.find_columns()
        predictions = [*read(body, start)]
        is_finite = not is_float or all_finite(predictions)
        if width != 1:
            predictions = chunks(predictions, width)
        probabilities = None
        if scores is not None:
            read, start, width, is_float = scores
            flat = [*read(body, start)]
            is_finite = is_finite and (not is_float or all_finite(flat))
            probabilities = [flat] if self.rows == 1 else chunks(flat, width)
        self._model_output = output = ModelOutput(predictions, probabilities, is_finite)
        return output

    def log_answer(self) -> Answer:
        """What the log keeps of the inference; `cached_log_answer` from then on."""
        layout = self.layout
        places = layout.log_places or layout.find_log_places()
        self.cached_log_answer = answer = self.tensors, self.body, places
        return answer

    def cost(self, start: int, stop: int) -> int:
        """Bytes to read for rows `start` to `stop`, including a share of what is read once."""
        size = len(self.body)
        return max(size * (stop - start) // self.rows, size // 4)

    def part(self, start: int, stop: int) -> list[TensorView] | None:
        """All outputs for these rows; None if one is not row-wise; `BadUpstreamAnswer` if cut."""
        view, places = memoryview(self.body), self.layout.places
        tensors = [TensorView(out.name, out.datatype, out.shape, view[at]) for out, at in places]
        if stop - start == self.rows:
            return tensors
        if any(not tensor.shape or tensor.shape[0] != self.rows for tensor in tensors):
            return None
        if self._bounds is None:
            self._bounds = [self._row_bounds(tensor) for tensor in tensors]
        return [
            TensorView(
                tensor.name,
                tensor.datatype,
                (stop - start, *tensor.shape[1:]),
                tensor.data[bounds[start] : bounds[stop]],
            )
            for tensor, bounds in zip(tensors, self._bounds, strict=True)
        ]

    def _row_bounds(self, tensor: TensorView) -> list[int]:
        """Where each row begins among the tensor's bytes, and where the last one ends."""
        if tensor.datatype != "BYTES":
            size = len(tensor.data) // self.rows
            return [row * size for row in range(self.rows + 1)]
        try:
            bounds = text_bounds(tensor.data)
        except ValueError as error:
            raise BadUpstreamAnswer(f"Triton's {tensor.name}: {error}") from error
        width = (len(bounds) - 1) // self.rows
        return [bounds[row * width] for row in range(self.rows + 1)]


class ResponseReader:
    """Reads the responses of one version, which must be that version's (I2)."""

    def __init__(self, version: int, codec: Codec) -> None:
        self._version = version
        self._signature = codec.signature
        self.layouts: dict[tuple[bytes, int], OutputLayout] = {}

    def read(self, response: TritonResponse, rows: int, tensors: Tensors = ()) -> InferenceOutputs:
        """The outputs in a response; `BadUpstreamAnswer` when unreadable or by another version."""
        body = response.body
        head = body[: response.inference_header_length]
        layout = self.layouts.get((head, rows))
        if layout is None:
            layout = self._parse(head, rows)
            if len(self.layouts) >= _CACHED:
                self.layouts.clear()
            self.layouts[head, rows] = layout
        if layout.stop > len(body):
            raise BadUpstreamAnswer("Triton's answer ends within a tensor.")
        return InferenceOutputs(layout, body, tensors)

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
        return OutputLayout(parsed.outputs, len(head), rows, self._signature)
