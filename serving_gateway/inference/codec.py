"""Rows to tensors and back, by a model's signature: pure and without numpy.

Tensors are the little-endian, row-major bytes of the Open Inference Protocol's binary
extension. JSON has no NaN and no infinity, so a decoded number is finite; what is null in a row
and may be, is NaN or the empty text in its tensor.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType, Signature
from serving_gateway.errors import BadUpstreamAnswer, InvalidInput
from serving_gateway.inference.coerce import checked

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("the gateway writes tensors in the machine's byte order: little-endian only")

FORMATS: Final[Mapping[str, tuple[str, int]]] = {
    "FP32": ("f", 4),
    "FP64": ("d", 8),
    "INT8": ("b", 1),
    "INT16": ("h", 2),
    "INT32": ("i", 4),
    "INT64": ("q", 8),
    "UINT8": ("B", 1),
    "UINT16": ("H", 2),
    "UINT32": ("I", 4),
    "UINT64": ("Q", 8),
    "BOOL": ("?", 1),
}
"""Format character and size in bytes of the fixed-size element types."""

Row = Sequence[Any]
Tensors = tuple[bytes, ...]
"""One buffer per model input, in the order of `Codec.inputs`."""


class Input(msgspec.Struct, frozen=True):
    """One input tensor of a model: `width` elements per row."""

    name: str
    dtype: DType
    width: int


class OutputTensor(msgspec.Struct, frozen=True):
    """One tensor of an answer; `data` holds its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview


class Answers(msgspec.Struct, frozen=True):
    """Decoded answers to `rows` rows, to be cut into those of single requests."""

    predictions: list[Any]
    probabilities: list[list[float]] | None

    def part(self, start: int, stop: int) -> Answers:
        """The answers to rows `start` to `stop`, the latter excluded."""
        probabilities = self.probabilities
        return Answers(
            self.predictions[start:stop],
            None if probabilities is None else probabilities[start:stop],
        )


class Codec:
    """Checks and packs rows for one signature, and unpacks the answers.

    Attributes:
        signature: what the model reads and answers.
        names: of the features, in the order of a row.
        nullable: the names of those that may be missing.
        inputs: the model's input tensors, in order.
        outputs: the names of the tensors to ask for.
        float_rows: whether every row is a list of floats for one tensor, so that the JSON
            decoder has checked every element's type already.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        features = signature.features
        self.width = len(features)
        self.names = tuple(feature.name for feature in features)
        self.nullable = frozenset(feature.name for feature in features if feature.nullable)
        packed = signature.packed_input
        if packed is None:
            self.inputs = tuple(Input(f.name, f.tensor_dtype, 1) for f in features)
        else:
            dtypes = {feature.tensor_dtype for feature in features}
            if len(dtypes) != 1:
                raise ValueError(f"packed input {packed!r} needs one type, has {sorted(dtypes)}")
            self.inputs = (Input(packed, features[0].tensor_dtype, self.width),)
        outputs = [signature.label_output]
        if signature.probabilities_output is not None:
            outputs.append(signature.probabilities_output)
        self.outputs = tuple(outputs)
        self.float_rows = packed is not None and all(
            feature.dtype in {DType.FP32, DType.FP64} for feature in features
        )
        self._row = (
            struct.Struct(f"<{self.width}{FORMATS[features[0].dtype][0]}")
            if self.float_rows
            else None
        )
        self._bool_labels = bool(signature.classes) and all(
            isinstance(label, bool) for label in signature.classes
        )

    def encode(self, rows: Sequence[Row], field: str = "data") -> Tensors:
        """Pack rows of values in the order of the features.

        Args:
            rows: at least one row of `width` JSON values.
            field: name of the request field, for error messages.

        Raises:
            InvalidInput: naming the first offending value.
        """
        if not rows:
            raise InvalidInput(
                f"{field} is empty; send at least one row.", field=field, code="empty"
            )
        self._check_widths(rows, field)
        columns = [
            [checked(row[i], feature, f"{field}[{r}][{i}]") for r, row in enumerate(rows)]
            for i, feature in enumerate(self.signature.features)
        ]
        return self._pack(columns)

    def encode_floats(self, rows: Sequence[Sequence[float]]) -> Tensors:
        """Pack rows whose elements are known to be floats: the fast way of `encode`.

        To be used with `float_rows` only, and never with unchecked values: packing would take
        a boolean for a number.

        Raises:
            InvalidInput: naming the first offending value.
        """
        if self._row is not None and rows:
            pack = self._row.pack
            try:
                return (b"".join([pack(*row) for row in rows]),)
            except (struct.error, OverflowError):
                pass  # found again, with its place, by the careful way
        return self.encode(rows)

    def encode_instances(self, instances: Sequence[Mapping[str, Any]]) -> Tensors:
        """Pack rows given as objects by feature name, in whatever order.

        Raises:
            InvalidInput: naming the first missing, unknown or offending value.
        """
        if not instances:
            raise InvalidInput(
                "instances is empty; send at least one.", field="instances", code="empty"
            )
        known = set(self.names)
        for r, instance in enumerate(instances):
            for feature in self.signature.features:
                if feature.name not in instance:
                    todo = "; send null where it is not known" if feature.nullable else ""
                    raise InvalidInput(
                        f"instances[{r}] lacks the feature {feature.name!r}{todo}.",
                        field=f"instances[{r}].{feature.name}",
                        code="missing_feature",
                    )
            if len(instance) > len(known):
                extra = sorted(set(instance) - known)[0]
                raise InvalidInput(
                    f"instances[{r}] has {extra!r}, which is no feature of this model; "
                    f"it has {', '.join(self.names)}.",
                    field=f"instances[{r}].{extra}",
                    code="unknown_feature",
                )
        columns = [
            [
                checked(instance[feature.name], feature, f"instances[{r}].{feature.name}")
                for r, instance in enumerate(instances)
            ]
            for feature in self.signature.features
        ]
        return self._pack(columns)

    def warm_up_rows(self) -> Tensors:
        """One harmless row, of zeros, False and empty text."""
        blank = {DType.BOOL: False, DType.BYTES: ""}
        features = self.signature.features
        return self._pack([[blank.get(feature.tensor_dtype, 0)] for feature in features])

    def decode(self, outputs: Sequence[OutputTensor], rows: int) -> Answers:
        """Unpack the answer to `rows` rows.

        Raises:
            BadUpstreamAnswer: a tensor is missing, or has another number of rows.
        """
        by_name = {output.name: output for output in outputs}
        label = self._output(by_name, self.signature.label_output, rows)
        predictions = values(label)
        if len(predictions) != rows:
            if len(predictions) % rows:
                raise BadUpstreamAnswer(f"Triton's {label.name} has shape {label.shape}.")
            predictions = chunks(predictions, len(predictions) // rows)
        if self._bool_labels:
            predictions = [bool(value) for value in predictions]
        name = self.signature.probabilities_output
        if name is None:
            return Answers(predictions, None)
        scores = self._output(by_name, name, rows)
        flat = values(scores)
        return Answers(predictions, chunks(flat, len(flat) // rows))

    @staticmethod
    def _output(by_name: Mapping[str, OutputTensor], name: str, rows: int) -> OutputTensor:
        output = by_name.get(name)
        if output is None:
            raise BadUpstreamAnswer(f"Triton's answer lacks the output {name!r}.")
        if not output.shape or output.shape[0] != rows:
            raise BadUpstreamAnswer(
                f"Triton's {name} has shape {list(output.shape)} for {rows} rows."
            )
        return output

    def _check_widths(self, rows: Sequence[Row], field: str) -> None:
        for r, row in enumerate(rows):
            if len(row) != self.width:
                raise InvalidInput(
                    f"{field}[{r}] has {len(row)} values; this model reads {self.width}: "
                    f"{', '.join(self.names)}.",
                    field=f"{field}[{r}]",
                    code="wrong_width",
                )

    def _pack(self, columns: Sequence[Sequence[Any]]) -> Tensors:
        """Pack checked values, given by feature."""
        if self.signature.packed_input is None:
            return tuple(
                pack(feature.tensor_dtype, column)
                for feature, column in zip(self.signature.features, columns, strict=True)
            )
        flat = list(chain.from_iterable(zip(*columns, strict=True)))
        return (pack(self.inputs[0].dtype, flat),)


def pack(dtype: str, flat: Sequence[Any]) -> bytes:
    """Bytes of checked values of one type; text is UTF-8 behind its length."""
    if dtype == "BYTES":
        parts = [text.encode() for text in flat]
        return b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return struct.pack(f"<{len(flat)}{FORMATS[dtype][0]}", *flat)


def values(tensor: OutputTensor) -> list[Any]:
    """All elements of a tensor, flat.

    Raises:
        BadUpstreamAnswer: unknown type, bytes that do not fit the type, text that is no UTF-8.
    """
    if tensor.datatype == "BYTES":
        return _texts(tensor)
    try:
        return tensor.data.cast(FORMATS[tensor.datatype][0]).tolist()  # type: ignore[call-overload, no-any-return]  # the format is one of the table's
    except (KeyError, TypeError, ValueError) as error:
        raise BadUpstreamAnswer(
            f"Triton's {tensor.name} is {tensor.datatype} with {len(tensor.data)} bytes: {error}"
        ) from error


def _texts(tensor: OutputTensor) -> list[str]:
    data = bytes(tensor.data)
    found: list[str] = []
    at = 0
    try:
        while at < len(data):
            (size,) = struct.unpack_from("<I", data, at)
            at += 4
            if at + size > len(data):
                raise BadUpstreamAnswer(f"Triton's {tensor.name} ends within a text.")
            found.append(data[at : at + size].decode())
            at += size
    except (struct.error, UnicodeDecodeError) as error:
        raise BadUpstreamAnswer(f"Triton's {tensor.name} is no text: {error}") from error
    return found


def chunks(flat: list[Any], width: int) -> list[Any]:
    """Cut a flat list into rows of `width`."""
    return [flat[i : i + width] for i in range(0, len(flat), width)] if width else []
