"""Elements of tensors in the Open Inference Protocol's binary form as Arrow arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

_TYPES: Final = {
    "FP32": pa.float32(),
    "FP64": pa.float64(),
    "INT8": pa.int8(),
    "INT16": pa.int16(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "UINT8": pa.uint8(),
    "UINT16": pa.uint16(),
    "UINT32": pa.uint32(),
    "UINT64": pa.uint64(),
    "BOOL": pa.uint8(),
}
"""Types of fixed size; a boolean is a byte in a tensor, and a bit in Arrow."""
_LENGTH: Final = 4
"""Bytes of a text's length."""


def elements(parts: Sequence[bytes], datatype: str) -> pa.Array:
    """All elements of these tensors, flat; `ValueError` where bytes are not of the type."""
    if datatype == "BYTES":
        return pa.array(_texts(parts), pa.binary()).cast(pa.string())
    kind = _TYPES.get(datatype)
    if kind is None:
        raise ValueError(f"the log has no type for {datatype}")
    data = b"".join(parts)
    count, rest = divmod(len(data), kind.bit_width // 8)
    if rest:
        raise ValueError(f"{len(data)} bytes are not whole elements of {datatype}")
    array = pa.Array.from_buffers(kind, count, [None, pa.py_buffer(data)])
    return array.cast(pa.bool_()) if datatype == "BOOL" else array


def _texts(parts: Sequence[bytes]) -> list[bytes]:
    texts: list[bytes] = []
    for part in parts:
        at, end = 0, len(part)
        while at < end:
            stop = at + _LENGTH + int.from_bytes(part[at : at + _LENGTH], "little")
            if stop > end:
                raise ValueError("a tensor ends within a text")
            texts.append(part[at + _LENGTH : stop])
            at = stop
    return texts
