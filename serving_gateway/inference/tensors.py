"""Tensor bytes of the Open Inference Protocol's binary extension, without numpy; pure functions.

Elements are little-endian and row-major; a text is its UTF-8 bytes after their length.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any, Final

import msgspec

from serving_gateway.errors import BadUpstreamAnswer

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("the gateway writes tensors in the machine's byte order: little-endian only")

FORMATS: Final[Mapping[str, str]] = {
    "FP32": "f",
    "FP64": "d",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "BOOL": "?",
}
"""Format characters of the fixed-size element types."""
FLOATS: Final = frozenset(["FP32", "FP64"])

Tensors = tuple[bytes, ...]
"""One buffer per model input, in the order of `Codec.inputs`."""


class TensorView(msgspec.Struct, frozen=True):
    """One tensor of a response; `data` holds its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview


def pack(dtype: str, flat: Sequence[Any]) -> bytes:
    """Pack values of one type; values that it cannot hold were refused before."""
    if dtype == "BYTES":
        parts = [text.encode() for text in flat]
        return b"".join([len(part).to_bytes(4, "little") + part for part in parts])
    return struct.pack(f"<{len(flat)}{FORMATS[dtype]}", *flat)


def unpack(tensor: TensorView) -> list[Any]:
    """All elements of a tensor, flat; `BadUpstreamAnswer` for bytes that are not of its type."""
    try:
        if tensor.datatype == "BYTES":
            return [part.decode() for part in split_texts(tensor.data)]
        return tensor.data.cast(FORMATS[tensor.datatype]).tolist()  # type: ignore[call-overload, no-any-return]  # the format is one of the table's
    except (KeyError, TypeError, ValueError) as error:
        raise BadUpstreamAnswer(
            f"Triton's {tensor.name} is {tensor.datatype} with {len(tensor.data)} bytes: {error}"
        ) from error


def text_bounds(data: memoryview) -> list[int]:
    """Where each text begins, with its length, and the last ends; `ValueError` when cut off."""
    bounds, end = [0], len(data)
    while (at := bounds[-1]) < end:
        stop = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if at + 4 > end or stop > end:
            raise ValueError("they end within a text.")
        bounds.append(stop)
    return bounds


def split_texts(data: memoryview) -> list[bytes]:
    """The elements of a tensor of texts, still encoded; raises like `text_bounds`."""
    return [bytes(data[at + 4 : stop]) for at, stop in pairwise(text_bounds(data))]


def all_finite(numbers: Sequence[float]) -> bool:
    """Whether no element is NaN or infinite."""
    # A sum is one call in C. Only a sum that is not finite, which large numbers may have too,
    # is worth a look at each element.
    return isfinite(sum(numbers)) or all(map(isfinite, numbers))


def chunks(flat: list[Any], width: int) -> list[list[Any]]:
    """Cut a flat list into rows of `width`."""
    return [flat[i : i + width] for i in range(0, len(flat), width)]
