"""Summary of a file of predictions, computed by DuckDB without loading it into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from platform_assets.resources import plots
from platform_assets.resources.feast_errors import translate_feast_errors
from platform_assets.scoring.records import PREDICTION, REASON

_BINS: Final = 30
_MOST_CLASSES: Final = 30
_LARGEST_DRAWN: Final = 1e300
"""Limit up to which the width of a range is finite, too."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """The number of predictions by label, or by range.

    `places` are the labels, or the lower bounds of ranges of width `width`.
    """

    places: tuple[str | float, ...]
    counts: tuple[int, ...]
    width: float | None = None


def count_reasons(path: Path) -> dict[str, int]:
    """Return the number of rows without a prediction by reason, most frequent first."""
    query = (
        f"SELECT {REASON}, count(*) FROM read_parquet(getvariable('path')) "
        f"WHERE {REASON} IS NOT NULL GROUP BY ALL ORDER BY 2 DESC, 1"
    )
    return dict(_rows(path, query))


def distribution(path: Path, *, of_numbers: bool) -> Distribution:
    """Count the predictions of a file; only those that can be drawn, for numbers."""
    source = f"read_parquet(getvariable('path')) WHERE {PREDICTION} IS NOT NULL"
    if not of_numbers:
        query = (
            f"SELECT {PREDICTION}::VARCHAR, count(*) FROM {source} GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        counts = _rows(path, f"{query} LIMIT {_MOST_CLASSES}")
        return Distribution(
            tuple(label for label, _ in counts), tuple(count for _, count in counts)
        )
    # DuckDB takes NaN to be within a limit if the file's statistics are.
    source += f" AND isfinite({PREDICTION}) AND abs({PREDICTION}) <= {_LARGEST_DRAWN}"
    [(low, high)] = _rows(path, f"SELECT min({PREDICTION}), max({PREDICTION}) FROM {source}")
    if low is None:
        return Distribution((), (), 1.0)
    width = (high - low) / _BINS or 1.0
    place = f"least(floor(({PREDICTION} - {low!r}) / {width!r}), {_BINS - 1})"
    counts = _rows(path, f"SELECT {place}, count(*) FROM {source} GROUP BY 1 ORDER BY 1")
    places = tuple(low + number * width for number, _ in counts)
    return Distribution(places, tuple(count for _, count in counts), width)


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with (
        translate_feast_errors(f"count the predictions in {path.name}"),
        duckdb.connect(config={"enable_external_file_cache": False}) as database,
    ):
        database.execute("SET VARIABLE path = ?", [str(path)])
        return database.execute(query).fetchall()


def distribution_picture(histogram: Distribution) -> bytes:
    """Draw the labels by their number of rows, or a histogram; PNG bytes."""
    if histogram.width is None:
        figure, axes = plots.canvas(7, max(2.0, 0.9 + 0.28 * len(histogram.places)))
        positions = range(len(histogram.places))
        axes.barh(positions, histogram.counts, color=plots.ACCENT, height=0.6)
        axes.set_yticks(positions, [plots.label(str(place), 48) for place in histogram.places])
        axes.invert_yaxis()
        axes.set(xlabel="rows", title="predictions")
    else:
        figure, axes = plots.canvas(7, 3.2)
        axes.bar(
            histogram.places,
            histogram.counts,
            histogram.width,
            align="edge",
            color=plots.ACCENT,
        )
        axes.set(xlabel="prediction", ylabel="rows", title="predictions")
    return plots.png(figure)
