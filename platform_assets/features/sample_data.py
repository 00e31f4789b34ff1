"""The iris source that a fresh state directory starts from."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from platform_assets.resources.atomic_files import replace_file

_COLUMNS: Final = (
    *("entity_id", "event_timestamp"),
    *("sepal_length", "sepal_width", "petal_length", "petal_width"),
    "species",
)
_FIRST: Final = datetime(2024, 3, 1, tzinfo=UTC)
_INTERVAL: Final = timedelta(days=14)
_GROWTH: Final = (0.94, 0.97, 1.0)
"""Size of a flower at each observation, relative to scikit-learn's measurement."""


def write_iris_source(path: Path) -> None:
    """Write scikit-learn's built-in iris as a source file, in one atomic step.

    450 rows: each of the 150 flowers (`entity_id` 1..150) is observed three times, two weeks
    apart, and grows; the last observation is the measurement of the data set. So a flower's
    newest row differs from what was known earlier, which a point-in-time join has to respect.
    Values are in centimetres, species are words; the same bytes on every call.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(_COLUMNS)]
    flowers = _flowers()
    for number, growth in enumerate(_GROWTH):
        for row, (values, name) in enumerate(flowers):
            at = _FIRST + number * _INTERVAL + timedelta(minutes=row)
            sizes = (f"{value * growth:.2f}" for value in values)
            lines.append(",".join((str(row + 1), at.isoformat(), *sizes, name)))
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def _flowers() -> list[tuple[list[float], str]]:
    """Return scikit-learn's iris measurements and species without its slow import."""
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/iris.csv")
    with Path(str(path)).open(newline="") as file:
        [_, _, *names], *rows = csv.reader(file)
    return [([float(value) for value in sizes], names[int(kind)]) for *sizes, kind in rows]
