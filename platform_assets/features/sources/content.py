"""Identity of a table by its content, however it is cut into chunks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def table_fingerprint(table: pa.Table, order: Sequence[str] = ()) -> str:
    """Return the SHA-256 of names, types and values: 64 lower-case hexadecimal digits.

    Rows count in their order, or sorted by the columns `order` where some are named.
    """
    import pyarrow.compute as pc
    from pyarrow import csv

    if order and table.num_rows:
        keys = [(name, "ascending") for name in order]
        table = table.take(pc.sort_indices(table.select(list(order)), sort_keys=keys))
    sink = _Digest()
    sink.write(f"{table.num_rows} {table.schema.remove_metadata()}\n".encode())
    # As text, for behind a null anything may stand in memory. Texts are quoted, null is not.
    csv.write_csv(table, sink)
    return sink.digest.hexdigest()


class _Digest(io.RawIOBase):
    """A file that keeps the digest of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return memoryview(data).nbytes
