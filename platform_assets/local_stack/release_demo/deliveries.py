"""The model of the demo and its rows: whether a delivery will be late."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final, Literal

MODEL: Final = "deliveries"
CITIES: Final = {"Bern": -0.6, "Chur": 0.9, "Genf": 0.4, "Lugano": 0.0, "Zug": -0.3}
"""Effect of each city on the log odds that a delivery is late."""
NEW_CITY: Final = "Aarau"
"""A city that no training row has."""
_COLUMNS: Final = ("distance", "weight", "hour", "city", "late")
_RUSH: Final = range(16, 20)
_METRES: Final = 1000.0

Row = dict[str, float | str]

_FILE: Final = """\
type: platform_assets.components.TabularModel
attributes:
  model_name: deliveries
  description: Whether a delivery will be late.
  source: {file: deliveries.csv}
  join_key: {row_number: delivery_id}
  features:
    distance: number  # km
    weight: number    # kg
    hour: integer
    city: text
  target: {column: late, type: boolean}
  task: binary
  candidates: [CANDIDATE]
  evaluation: {folds: 2}
  gates: {metric_floor: 0.7}
  release:
    steps: [mirror, 10, 50]
    # Less than two thousand requests do not show that failures are within half a per cent.
    each: {requests: 100, minutes: 0.35}
    give_up_after: 5m
    watch: 15s
    # On a machine that does all else beside, seconds do not show much of a 99th percentile.
    unproven: [latency_p99]
"""
_CANDIDATES: Final = {
    "usual": "logistic_regression",
    "strict": '{pipeline: "platform_assets.local_stack.release_demo.strict:build"}',
}


def write_model_file(folder: Path, candidate: Literal["usual", "strict"] = "usual") -> None:
    """Write the model file; the `strict` candidate refuses unseen cities."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "defs.yaml").write_text(_FILE.replace("CANDIDATE", _CANDIDATES[candidate]))


def write_rows(folder: Path, rows: int, unit: Literal["km", "m"] = "km") -> None:
    """Write the first `rows` deliveries, with their distances in this unit."""
    factor = _METRES if unit == "m" else 1.0
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "deliveries.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, _COLUMNS)
        table.writeheader()
        for _, (row, late) in zip(range(rows), _deliveries(seed=13), strict=False):
            distance = round(float(row["distance"]) * factor, 3)
            table.writerow({**row, "distance": distance, "late": late})


def requests(seed: int) -> Iterator[Row]:
    """Yield endless client requests, with distances in km and cities known from training."""
    return (row for row, _ in _deliveries(seed))


def _deliveries(seed: int) -> Iterator[tuple[Row, bool]]:
    random = Random(seed)  # noqa: S311 -- the same rows each time
    while True:
        distance = round(random.lognormvariate(2.0, 0.6), 2)
        weight = round(random.uniform(0.2, 30.0), 1)
        hour, city = random.randrange(7, 21), random.choice([*CITIES])
        odds = 0.9 * (distance - 8) + 0.06 * (weight - 15) + CITIES[city]
        odds += 1.2 if hour in _RUSH else -0.4
        row: Row = {"distance": distance, "weight": weight, "hour": hour, "city": city}
        yield row, random.random() < 1 / (1 + math.exp(-odds))
