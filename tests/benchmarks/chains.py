"""Whole chains on a running stack: `python -m tests.benchmarks.chains [--rows N]`.

Seconds from the launch in Dagster to the proof of production, as a person waits for them: the
process of the run, its imports, the training, every gate and the switch are in it. `iris` runs
twice, cold and warm; `flights` is a table with the size and the kinds of columns of a year of
departures: numbers, a text of 105 airports, one of 16 carriers, and missing values.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Final

from platform_assets.local_stack.chain import chain_job_name, run_chain
from platform_assets.local_stack.run_progress import ChainEvent
from platform_assets.local_stack.settings import ROOT, stack_settings
from platform_assets.local_stack.stack import Stack
from tests.support.servers import free_port

FLIGHTS_ROWS: Final = 336_776
_PORTS: Final = ("DAGSTER", "MLFLOW", "GATEWAY", "TRITON_HTTP", "TRITON_GRPC", "TRITON_METRICS")
_MODEL_FILE: Final = """\
type: platform_assets.components.TabularModel
attributes:
  source: {file: flights.parquet}
  join_key: {row_number: flight}
  features:
    month: integer
    weekday: integer
    hour: number
    distance: number
    departure_delay: {type: number, nullable: true}
    air_time: {type: number, nullable: true}
    carrier: text
    destination: text
    origin: text
  target: {column: late, type: boolean}
  task: binary
  candidates: [logistic_regression, hist_gradient_boosting]
  gates: {metric_floor: 0.5, latency_ms: 100}
"""


def write_flights(folder: Path, rows: int) -> None:
    """Write the model `flights` with this many rows of data."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(0)
    delay = random.gamma(1, 12, rows) - 8
    distance = random.integers(80, 5000, rows)
    late = delay + random.normal(0, 10, rows) > 15
    gone = random.random(rows) < 0.025

    def texts(prefix: str, count: int) -> pa.Array:
        return pa.array([f"{prefix}{n}" for n in range(count)]).take(
            pa.array(random.integers(0, count, rows))
        )

    table = pa.table(
        {
            "month": random.integers(1, 13, rows),
            "weekday": random.integers(0, 7, rows),
            "hour": random.integers(5, 24, rows).astype(np.float64),
            "distance": distance.astype(np.float64),
            "departure_delay": pa.array(delay, mask=gone),
            "air_time": pa.array(distance / 7.5 + random.normal(0, 5, rows), mask=gone),
            "carrier": texts("C", 16),
            "destination": texts("D", 105),
            "origin": texts("O", 3),
            "late": late,
        }
    )
    folder.mkdir(parents=True)
    parquet.write_table(table, folder / "flights.parquet")
    (folder / "defs.yaml").write_text(_MODEL_FILE)


def measure(dagster_url: str, label: str, model_name: str, rows: int) -> None:
    """Run a chain to its end and print how long it took.

    Raises:
        RuntimeError: it did not reach production.
    """
    failures: list[ChainEvent] = []

    def note(event: ChainEvent) -> None:
        if event.kind == "failure":
            failures.append(event)

    began = time.monotonic()
    result = run_chain(dagster_url, chain_job_name(model_name), note)
    seconds = time.monotonic() - began
    if not result.succeeded:
        raise RuntimeError(f"{label}: {failures}")
    print(f"{label:<16} {rows:>9,} rows {seconds:>8.1f} s from launch to proof", flush=True)


def main() -> None:
    """Start a stack of its own, and measure the chains on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=FLIGHTS_ROWS, help="rows of flights")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="chains-") as home:
        write_flights(Path(home) / "models" / "flights", rows)
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STATE_DIR": str(Path(home) / "state"),
            "MODELS_DIR": str(Path(home) / "models"),
            **{f"{name}_PORT": str(free_port()) for name in _PORTS},
        }
        settings = stack_settings(environ)
        stack = Stack(settings, environ)
        stack.start(lambda _name, _doing: None)
        try:
            for label in ("iris, cold", "iris, warm"):
                measure(settings.dagster_url, label, "best_model", 450)
            measure(settings.dagster_url, "flights", "flights", rows)
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
