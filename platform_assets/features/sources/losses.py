"""What reading a source changed: digits that 32 bits do not hold, keys that became one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

_NOTICED: Final = 1e-6
"""Part of a column's range by which a value may change before that is worth a word."""
_WHOLE: Final = 2**24
"""Whole numbers up to here fit into 32 bits."""
_SHOWN_KEYS: Final = 3


@dataclass(slots=True)
class _Loss:
    whole: int = 0
    error: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    example: float = 0.0


class Losses:
    """What the columns of 32-bit floats lose of their values."""

    def __init__(self) -> None:
        self._columns: dict[str, _Loss] = {}

    def note(self, name: str, values: pa.Array, narrow: pa.Array) -> None:
        """Compare 64-bit values with what became of them; null and infinity do not count."""
        import numpy as np

        wide = values.to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            errors = np.abs(narrow.to_numpy(zero_copy_only=False) - wide)
        errors[np.isinf(errors)] = np.nan
        loss = self._columns.setdefault(name, _Loss())
        # What is not a number is passed over: null, and what is infinite on a side.
        loss.low = min(loss.low, np.fmin.reduce(wide, initial=loss.low))
        loss.high = max(loss.high, np.fmax.reduce(wide, initial=loss.high))
        error = np.fmax.reduce(errors, initial=0.0)
        if error > loss.error:
            loss.error, loss.example = float(error), float(wide[np.argmax(errors == error)])
        if error and (loss.high > _WHOLE or loss.low < -_WHOLE):
            loss.whole += int(((errors > 0) & (wide == np.trunc(wide))).sum())

    def warnings(self) -> list[str]:
        """A sentence for each column that loses whole numbers or much of its range."""
        return [
            f"{name} loses digits as number, a 32-bit float: {loss.example:.17g} is read with an "
            f"error of {loss.error:g}; declare double or integer where they count"
            for name, loss in self._columns.items()
            if loss.whole or loss.error > _NOTICED * (loss.high - loss.low)
        ]


def merged_keys(name: str, table: pa.Table, written: pa.ChunkedArray) -> list[str]:
    """A sentence when integer keys that are written with leading zeros became one with others.

    `name` is the column of the keys; `written` has those with leading zeros as they stand in
    the source, null for the others.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if written.null_count == len(written):
        return []
    texts = pc.coalesce(pc.utf8_trim_whitespace(written), table[name].cast(pa.string()))
    keys = pa.table({"key": table[name], "text": texts}).group_by("key")
    spellings = keys.aggregate([("text", "distinct")])["text_distinct"]
    merged = spellings.filter(pc.greater(pc.list_value_length(spellings), 1))
    shown = "; ".join(
        " and ".join(map(repr, sorted(texts))) for texts in merged[:_SHOWN_KEYS].to_pylist()
    )
    return [
        f"{name}: {len(merged):,} keys are written in several ways and are one entity each as "
        f"integer ({shown}); declare type: text for the key where they differ"
    ] * bool(len(merged))
