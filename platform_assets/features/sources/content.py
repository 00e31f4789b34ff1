"""Identity of a table by its content, however it is cut into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def table_fingerprint(table: pa.Table, order: Sequence[str] = ()) -> str:
    """Return the SHA-256 of names, types and values: 64 lower-case hexadecimal digits.

    Rows count in their order, or sorted by the columns `order` where some are named. What
    stands in memory behind a null does not count.
    """
    import pyarrow.compute as pc

    rows = None
    if order and table.num_rows:
        keys = table.select(list(order))
        rows = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in order])
    whole = hashlib.sha256(str(table.num_rows).encode())
    for name in table.column_names:
        column = table[name]
        whole.update(f"\n{name} {column.type} ".encode())
        whole.update(_column_digest(column if rows is None else column.take(rows)))
    return whole.hexdigest()


def _column_digest(column: pa.ChunkedArray) -> bytes:
    import pyarrow as pa

    valid, values, texts = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for chunk in column.chunks:
        valid.update(chunk.is_valid().cast(pa.uint8()).to_numpy())
        if pa.types.is_string(chunk.type):
            _update_text(chunk, values, texts)
        else:
            values.update(_plain(chunk).to_numpy())
    return valid.digest() + values.digest() + texts.digest()


def _plain(chunk: pa.Array) -> pa.Array:
    """The values as numbers, 0 for null."""
    import pyarrow as pa

    if pa.types.is_boolean(chunk.type):
        chunk = chunk.cast(pa.uint8())
    elif pa.types.is_timestamp(chunk.type):
        chunk = chunk.cast(pa.int64())
    return chunk.fill_null(0)


def _update_text(chunk: pa.Array, lengths: hashlib._Hash, texts: hashlib._Hash) -> None:
    import numpy as np
    import pyarrow.compute as pc

    filled = chunk.fill_null("")
    lengths.update(pc.binary_length(filled).to_numpy())
    _, offsets, data = filled.buffers()
    if len(filled) and data is not None:
        bounds = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
        texts.update(memoryview(data)[bounds[0] : bounds[-1]])
