"""Identity of a table by its content, however it is cut into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def table_fingerprint(table: pa.Table, order: Sequence[str] = ()) -> str:
    """Return the SHA-256 of names, types and values: 64 lower-case hexadecimal digits.

    Rows count in their order, or sorted by the columns `order` where some are named.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    if order and table.num_rows:
        keys = [(name, "ascending") for name in order]
        table = table.take(pc.sort_indices(table.select(list(order)), sort_keys=keys))
    digest = hashlib.sha256(f"{table.num_rows} {table.schema.remove_metadata()}\n".encode())
    for batch in table.to_batches():
        # As text, for behind a null anything may stand in memory. Texts are quoted, null is not.
        sink = pa.BufferOutputStream()
        csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
        digest.update(sink.getvalue())
    return digest.hexdigest()
