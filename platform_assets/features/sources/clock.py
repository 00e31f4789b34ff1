"""Convert local times to UTC, including the hour that a clock shows twice."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import SHOWN_PROBLEMS, SourceTable
from platform_assets.resources.source import SourceError

_DAY_US: Final = 86_400_000_000


def local_to_utc(
    source: SourceTable, column: Column, local: pa.ChunkedArray, key: str | None
) -> pa.Table:
    """Return the source's table with the times of `column` in UTC.

    Those that `local` marks are in the column's zone, the others already in UTC. The order of an
    entity's rows (by the column `key`; of all rows without one) resolves ambiguous times.
    SourceError names rows whose time the clock shows never, or twice without such an order.
    """
    place = source.table.column_names.index(column.name)
    times = source.table[column.name]
    shown = pc.if_else(local, times, None).combine_chunks()
    sides = {"earliest": shown, "latest": shown}
    for side in sides:
        zoned = pc.assume_timezone(shown, column.timezone, ambiguous=side, nonexistent=side)
        sides[side] = zoned.cast(pa.timestamp("us", tz="UTC"))
    utc = pc.coalesce(sides["earliest"], times.combine_chunks().cast(pa.timestamp("us", tz="UTC")))
    gap = pc.subtract(sides["latest"], sides["earliest"]).cast(pa.int64()).fill_null(0).to_numpy()
    if gap.any():
        # Where the clock skips an hour, the two sides are its two ends, a microsecond apart.
        _refuse(source, column, times, gap == 1, "never shows")
        keys = None if key is None else source.table[key]
        later, unshown = _second_times(times.cast(pa.int64()).to_numpy(), gap > 1, keys)
        why = "shows twice, and the order of the rows does not say which of the two it is"
        _refuse(source, column, times, unshown, why)
        utc = pc.if_else(pa.array(later), sides["latest"], utc)
    return source.table.set_column(place, column.name, utc)


def _second_times(
    times: NDArray[np.int64], twice: NDArray[np.bool_], keys: pa.ChunkedArray | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the times shown twice that are the second ones, and those that remain ambiguous."""
    codes: NDArray[Any] = np.zeros(len(times), np.int64)
    if keys is not None:
        codes = keys.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    rows = np.flatnonzero(np.isin(codes, codes[twice]))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    later, is_resolved = np.zeros(len(times), bool), np.zeros(len(times), bool)
    for ordered in (rows, rows[::-1]):  # oldest or newest first
        second, sure = _infer_from_order(times[ordered], twice[ordered], codes[ordered])
        later[ordered] |= second & ~is_resolved[ordered]
        is_resolved[ordered] |= sure
    return later, twice & ~is_resolved


def _infer_from_order(
    times: NDArray[np.int64], twice: NDArray[np.bool_], codes: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the rows of the second time, and the rows whose order reveals which time they are.

    It does where the entity's times never go back, except once within an hour shown twice.
    """
    same = codes[1:] == codes[:-1]
    hour = same & twice[1:] & twice[:-1] & (times[1:] // _DAY_US == times[:-1] // _DAY_US)
    back = np.append(False, hour & (times[1:] <= times[:-1]))
    disordered = np.append(False, same & ~hour & (times[1:] < times[:-1]))
    # Rows of an entity are adjacent, and so are those of one hour unless some are disordered.
    begins = np.append(True, ~hour)
    groups = np.cumsum(begins) - 1
    backs = np.bincount(groups, back)
    so_far = np.cumsum(back)
    since = so_far - so_far[np.flatnonzero(begins)][groups]
    entities = np.cumsum(np.append(True, ~same)) - 1
    disorder = np.bincount(entities, disordered)
    sure = twice & (backs[groups] == 1) & (disorder[entities] == 0)
    return sure & (since == 1), sure


def _refuse(
    source: SourceTable, column: Column, times: pa.ChunkedArray, wrong: NDArray[Any], why: str
) -> None:
    rows = np.flatnonzero(wrong).tolist()
    shown, more = rows[:SHOWN_PROBLEMS], len(rows) - SHOWN_PROBLEMS
    places = [f"{times[row].as_py():%Y-%m-%d %H:%M:%S} in {source.row(row)}" for row in shown]
    if places:
        raise SourceError(
            f"{source.name} has times in {column.name} that the clock of {column.timezone} {why}: "
            f"{', '.join(places)}{f' and {more:,} more' if more > 0 else ''}",
            "write those times with their offset (or all in UTC), and run again",
        )
