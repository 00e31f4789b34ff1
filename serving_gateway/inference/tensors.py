"""Tensor bytes of the Open Inference Protocol's binary extension, without numpy: pure.

Elements are little-endian and row-major; a text is its UTF-8 bytes behind their length.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType
from serving_gateway.errors import BadUpstreamAnswer

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

Tensors = tuple[bytes, ...]
"""One buffer per model input, in the order of `Codec.inputs`."""


class InputSpec(msgspec.Struct, frozen=True):
    """One input tensor of a model: `width` elements per row."""

    name: str
    dtype: DType
    width: int


class TensorView(msgspec.Struct, frozen=True):
    """One tensor of a response; `data` holds its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview


def pack(dtype: str, flat: Sequence[Any]) -> bytes:
    """Bytes of values of one type.

    Raises:
        struct.error, OverflowError: a number is beyond the type's range.
        UnicodeEncodeError: a text holds half of a surrogate pair.
    """
    if dtype == "BYTES":
        parts = [text.encode() for text in flat]
        return b"".join([struct.pack("<I", len(part)) + part for part in parts])
    return struct.pack(f"<{len(flat)}{FORMATS[dtype][0]}", *flat)


def unpack(tensor: TensorView) -> list[Any]:
    """All elements of a tensor, flat.

    Raises:
        BadUpstreamAnswer: unknown type, bytes that do not fit the type, text that is not UTF-8.
    """
    if tensor.datatype == "BYTES":
        return [_text(part, tensor.name) for part in split_texts(tensor.data, tensor.name)]
    try:
        return tensor.data.cast(FORMATS[tensor.datatype][0]).tolist()  # type: ignore[call-overload, no-any-return]  # the format is one of the table's
    except (KeyError, TypeError, ValueError) as error:
        raise BadUpstreamAnswer(
            f"Triton's {tensor.name} is {tensor.datatype} with {len(tensor.data)} bytes: {error}"
        ) from error


def split_texts(data: memoryview, name: str) -> list[bytes]:
    """The elements of a tensor of texts, still encoded.

    Raises:
        BadUpstreamAnswer: the bytes end within an element.
    """
    found: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        if at + 4 > end or at + 4 + (size := int.from_bytes(data[at : at + 4], "little")) > end:
            raise BadUpstreamAnswer(f"Triton's {name} ends within a text.")
        found.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def all_finite(numbers: Sequence[float]) -> bool:
    """Whether no element is NaN or infinite."""
    # A sum is one call in C. Only a sum that is not finite, which large numbers may have too,
    # is worth a look at each element.
    return isfinite(sum(numbers)) or all(map(isfinite, numbers))


def chunks(flat: list[Any], width: int) -> list[list[Any]]:
    """Cut a flat list into rows of `width`."""
    return [flat[i : i + width] for i in range(0, len(flat), width)] if width else []


def _text(part: bytes, name: str) -> str:
    try:
        return part.decode()
    except UnicodeDecodeError as error:
        raise BadUpstreamAnswer(f"Triton's {name} is not valid UTF-8: {error}") from error
