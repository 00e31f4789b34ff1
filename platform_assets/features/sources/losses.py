"""Warnings about reading: digits lost in 32-bit floats, keys merged as integers."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

EXACT: Final = 2**24
"""Integers up to here are exact in 32-bit floats."""
_SHOWN_KEYS: Final = 3


def describe_lost_digits(name: str, values: pa.Array, narrow: pa.Array) -> str | None:
    """Return a warning if a value beyond `EXACT` changed from 64 to 32 bits, else None."""
    # Below it, what 32 bits cut off is small compared with the unit of a value.
    extremes = pc.min_max(values).as_py()
    if extremes["max"] is None or max(-extremes["min"], extremes["max"]) <= EXACT:
        return None
    changed = pc.and_(pc.greater(pc.abs(values), EXACT), pc.not_equal(values, narrow))
    place = pc.index(pc.and_(changed, pc.is_finite(narrow)), True).as_py()
    if place < 0:
        return None
    return (
        f"{name} loses digits as number, a 32-bit float that is exact up to {EXACT:,}, as in "
        f"{values[place].as_py():.17g}; declare double or integer where they count"
    )


def describe_merged_keys(name: str, table: pa.Table, written: pa.ChunkedArray) -> str | None:
    """Return a warning if integer keys written with leading zeros were merged with others.

    `name` is the column of the keys; `written` has those with leading zeros as in the source,
    null for the others.
    """
    if written.null_count == len(written):
        return None
    texts = pc.coalesce(pc.utf8_trim_whitespace(written), table[name].cast(pa.string()))
    keys = pa.table({"key": table[name], "text": texts}).group_by("key")
    spellings = keys.aggregate([("text", "distinct")])["text_distinct"]
    merged = spellings.filter(pc.greater(pc.list_value_length(spellings), 1))
    if not len(merged):
        return None
    shown = "; ".join(
        " and ".join(map(repr, sorted(texts))) for texts in merged[:_SHOWN_KEYS].to_pylist()
    )
    return (
        f"{name}: {len(merged):,} keys are written in several ways and are one entity each as "
        f"integer ({shown}); declare type: text for the key where they differ"
    )
