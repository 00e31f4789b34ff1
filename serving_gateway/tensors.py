"""Rows to tensors and back, by a model's signature: pure and without numpy.

Tensors are the little-endian, row-major bytes of the Open Inference Protocol's binary
extension. JSON has no NaN and no infinity, so a decoded number is finite.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import BadUpstreamAnswer, InvalidInput

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

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_FP32_MAX: Final = 3.4028235677973366e38
"""The largest double that still rounds to a finite FP32."""

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
        packed = signature.packed_input
        if packed is None:
            self.inputs = tuple(Input(f.name, f.dtype, 1) for f in features)
        else:
            dtypes = {feature.dtype for feature in features}
            if len(dtypes) != 1:
                raise ValueError(f"packed input {packed!r} needs one type, has {sorted(dtypes)}")
            self.inputs = (Input(packed, features[0].dtype, self.width),)
        outputs = [signature.label_output]
        if signature.probabilities_output is not None:
            outputs.append(signature.probabilities_output)
        self.outputs = tuple(outputs)
        self.float_rows = packed is not None and features[0].dtype in {DType.FP32, DType.FP64}
        self._row = (
            struct.Struct(f"<{self.width}{FORMATS[features[0].dtype][0]}")
            if (self.float_rows)
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
            [_checked(row[i], feature, f"{field}[{r}][{i}]") for r, row in enumerate(rows)]
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
            for name in self.names:
                if name not in instance:
                    raise InvalidInput(
                        f"instances[{r}] lacks the feature {name!r}.",
                        field=f"instances[{r}].{name}",
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
                _checked(instance[feature.name], feature, f"instances[{r}].{feature.name}")
                for r, instance in enumerate(instances)
            ]
            for feature in self.signature.features
        ]
        return self._pack(columns)

    def warm_up_rows(self) -> Tensors:
        """One harmless row, of zeros, False and empty text."""
        blank = {DType.BOOL: False, DType.BYTES: ""}
        return self._pack([[blank.get(feature.dtype, 0)] for feature in self.signature.features])

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
                pack(feature.dtype, column)
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


def _checked(value: Any, feature: Feature, field: str) -> Any:
    """`value` when it fits the feature's type.

    Raises:
        InvalidInput: it does not.
    """
    return _CHECKS[feature.dtype](value, field)


def _wrong_type(value: Any, wanted: str, field: str) -> InvalidInput:
    names = {bool: "a boolean", str: "text", list: "a list", dict: "an object", float: "a number"}
    given = "null" if value is None else names.get(type(value), "a number")
    return InvalidInput(f"{field} is {given}; {wanted} is needed.", field=field, code="wrong_type")


def _double(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(value, "a number", field)
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput(
            f"{field} is beyond the range of a 64-bit float.", field=field, code="out_of_range"
        ) from error


def _single(value: Any, field: str) -> float:
    number = _double(value, field)
    if abs(number) >= _FP32_MAX:
        raise InvalidInput(
            f"{field} is {number:g}, beyond the range of a 32-bit float.",
            field=field,
            code="out_of_range",
        )
    return number


def _integer(value: Any, field: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(value, "a whole number", field)
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise InvalidInput(
            f"{field} is beyond the range of a 64-bit integer.", field=field, code="out_of_range"
        )
    return value


def _boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "true or false", field)
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "text", field)
    return value


_CHECKS: Final[Mapping[DType, Callable[[Any, str], Any]]] = {
    DType.FP32: _single,
    DType.FP64: _double,
    DType.INT64: _integer,
    DType.BOOL: _boolean,
    DType.BYTES: _text,
}
