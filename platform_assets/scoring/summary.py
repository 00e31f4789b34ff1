"""What a file of predictions holds, counted by DuckDB: the file is never in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from platform_assets.resources import plots
from platform_assets.resources.feast_errors import translated
from platform_assets.scoring.records import PREDICTION, REASON

_BINS: Final = 30
_MOST_CLASSES: Final = 30
_LARGEST_DRAWN: Final = 1e300
"""Up to which the width of a range is a number, too."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often each label was predicted, or how many predictions are in each range.

    `places` are the labels, or the lower ends of ranges that are `width` wide.
    """

    places: tuple[str | float, ...]
    counts: tuple[int, ...]
    width: float | None = None


def count_reasons(path: Path) -> dict[str, int]:
    """Return how many rows have no prediction, by the reason, most first."""
    query = (
        f"SELECT {REASON}, count(*) FROM read_parquet(getvariable('path')) "
        f"WHERE {REASON} IS NOT NULL GROUP BY ALL ORDER BY 2 DESC, 1"
    )
    return dict(_rows(path, query))


def distribution(path: Path, *, of_numbers: bool) -> Distribution:
    """Count the predictions of a file; of numbers, those that can be drawn."""
    source = f"read_parquet(getvariable('path')) WHERE {PREDICTION} IS NOT NULL"
    if not of_numbers:
        query = (
            f"SELECT {PREDICTION}::VARCHAR, count(*) FROM {source} GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        found = _rows(path, f"{query} LIMIT {_MOST_CLASSES}")
        return Distribution(tuple(one for one, _ in found), tuple(count for _, count in found))
    # DuckDB alone takes NaN for within any limit that the file's statistics are within.
    source += f" AND isfinite({PREDICTION}) AND abs({PREDICTION}) <= {_LARGEST_DRAWN}"
    [(low, high)] = _rows(path, f"SELECT min({PREDICTION}), max({PREDICTION}) FROM {source}")
    if low is None:
        return Distribution((), (), 1.0)
    width = (high - low) / _BINS or 1.0
    place = f"least(floor(({PREDICTION} - {low!r}) / {width!r}), {_BINS - 1})"
    found = _rows(path, f"SELECT {place}, count(*) FROM {source} GROUP BY 1 ORDER BY 1")
    places = tuple(low + number * width for number, _ in found)
    return Distribution(places, tuple(count for _, count in found), width)


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with (
        translated(f"count the predictions in {path.name}"),
        duckdb.connect(config={"enable_external_file_cache": False}) as database,
    ):
        database.execute("SET VARIABLE path = ?", [str(path)])
        return database.execute(query).fetchall()


def distribution_picture(found: Distribution) -> bytes:
    """Draw the labels by their number of rows, or a histogram; PNG bytes."""
    if found.width is None:
        figure, axes = plots.canvas(7, max(2.0, 0.9 + 0.28 * len(found.places)))
        positions = range(len(found.places))
        axes.barh(positions, found.counts, color=plots.ACCENT, height=0.6)
        axes.set_yticks(positions, [plots.label(str(one), 48) for one in found.places])
        axes.invert_yaxis()
        axes.set(xlabel="rows", title="predictions")
    else:
        figure, axes = plots.canvas(7, 3.2)
        axes.bar(found.places, found.counts, found.width, align="edge", color=plots.ACCENT)
        axes.set(xlabel="prediction", ylabel="rows", title="predictions")
    return plots.png(figure)
