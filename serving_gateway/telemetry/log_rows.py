"""Requests of a page of the prediction log as Arrow arrays, and their rows."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_ZERO: Final = pa.array([0], pa.int32())
"""Made here: with the first array pyarrow imports pandas where that is installed, which would delay
the first requests."""
_TYPES: Final = {"q": pa.int64(), "d": pa.float64()}
_FIELD_BYTES: Final = 8


def record_fields(records: memoryview, kinds: str) -> list[pa.Array]:
    """The fields of records, integers (`q`) and floating-point numbers (`d`) of 8 bytes."""
    buffer, count = pa.py_buffer(records), len(records) // _FIELD_BYTES
    lists = {
        kind: pa.FixedSizeListArray.from_arrays(
            pa.Array.from_buffers(_TYPES[kind], count, [None, buffer]), len(kinds)
        )
        for kind in {*kinds}
    }
    return [pc.list_element(lists[kind], at) for at, kind in enumerate(kinds)]


class RowSpreader:
    """Repeats what requests have once for each of their rows; `counts` has the number of rows."""

    def __init__(self, counts: pa.Array) -> None:
        self.count: int = pc.sum(counts).as_py()
        self._parents: pa.Array | None = None
        if self.count != len(counts):
            ends = pc.cumulative_sum(counts).cast(pa.int32())
            self._first = pa.concat_arrays([_ZERO, ends])
            lists = pa.ListArray.from_arrays(self._first, pa.nulls(self.count, pa.bool_()))
            self._parents = pc.list_parent_indices(lists)

    def spread(self, column: pa.Array) -> pa.Array:
        """A column of requests as one of rows."""
        return column if self._parents is None else column.take(self._parents)

    def index(self) -> pa.Array:
        """The index of each row in its request."""
        if self._parents is None:
            return self.constant(0, pa.int32())
        place = pa.array(range(self.count), pa.int32())
        return pc.subtract(place, self._first.take(self._parents))

    def constant(self, value: object, kind: pa.DataType) -> pa.Array:
        """The same value in each row."""
        return pa.repeat(pa.scalar(value, kind), self.count)
