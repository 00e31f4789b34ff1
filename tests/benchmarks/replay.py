"""Replay next to live load: `python -m tests.benchmarks.replay`.

Two versions of the iris model answer 2,000 logged rows at Triton, while clients send requests to
the gateway at a steady rate (open loop). Replays follow each other for as long as the load lasts,
so that the clients' percentiles are those of the replay. Rounds without one come in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.triton import TritonEndpoint, TritonResource
from platform_assets.serving.replay.asking import answer_in_turn
from platform_assets.serving.replay.reading import read_logged
from serving_gateway.contract import DEFAULT_MODEL, LOG_TIME, LOG_VERSION, DType, Feature, Signature
from tests.benchmarks.environment import start_gateway, start_triton
from tests.benchmarks.steady import run_open_loop

ROWS: Final = 2_000
MOST_SECONDS, MOST_RATIO = 5.0, 1.1
"""Targets: of one replay, and of the clients' 99th percentile to that without."""
_NAMES: Final = ("sepal_length", "sepal_width", "petal_length", "petal_width")
_SIGNATURE: Final = Signature(
    features=tuple(Feature(name, DType.FP32) for name in _NAMES),
    packed_input="features",
    classes=(0, 1, 2),
)
_VERSIONS: Final = [
    RegisteredVersion(DEFAULT_MODEL, version, f"run-{version}", "", _SIGNATURE)
    for version in (2, 1)
]
"""The candidate and production."""


def write_log(root: Path) -> SamplesFolder:
    """Write what a gateway logs of as many rows."""
    random, now = np.random.default_rng(1), datetime.now(UTC)
    columns: dict[str, Any] = {
        name: random.uniform(0.1, 8, ROWS).astype(np.float32) for name in _NAMES
    }
    columns[LOG_TIME] = pa.array([now] * ROWS, pa.timestamp("us", "UTC"))
    columns[LOG_VERSION] = pa.array([1] * ROWS, pa.int64())
    folder = root / DEFAULT_MODEL / f"date={now:%Y-%m-%d}"
    folder.mkdir(parents=True)
    parquet.write_table(pa.table(columns), folder / "replica-000001.parquet")
    return SamplesFolder(root=str(root))


def replay_once(samples: SamplesFolder, endpoint: TritonEndpoint) -> float:
    """Seconds to read the rows and have both versions answer them."""
    began = time.monotonic()
    rows = read_logged(_VERSIONS[0], _VERSIONS[1], samples, ROWS)
    frames = (rows.candidate, rows.production)
    asked, answers = answer_in_turn(endpoint, [*zip(_VERSIONS, frames, strict=True)])
    assert asked == ROWS
    assert all(one.is_answered.all() for one in answers)
    return time.monotonic() - began


def measure(rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """The figures, medians over the rounds."""
    took: list[float] = []
    p99: dict[str, list[float]] = {"alone": [], "with replay": []}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        home = Path(folder)
        samples = write_log(home / "log")
        with start_triton(home) as triton, start_gateway(home, triton.http_url) as gateway:
            gateway.routed(1)
            [endpoint] = TritonResource(url=triton.http_url, control_key="").endpoints()
            replay_once(samples, endpoint)

            def replays() -> None:
                end = time.monotonic() + seconds - 1
                while time.monotonic() < end:
                    took.append(replay_once(samples, endpoint))

            for _ in range(rounds):
                for name, meanwhile in (("alone", None), ("with replay", replays)):
                    found = run_open_loop(gateway.url, rate, seconds, meanwhile)
                    p99[name].append(found["latency_ms"]["p99"])
                    failed += found["failed"]
    ratios = [one / other for one, other in zip(p99["with replay"], p99["alone"], strict=True)]
    return {
        "rate": rate,
        "rows": ROWS,
        "replays": len(took),
        "replay_seconds": round(median(took), 2),
        "longest_replay_seconds": round(max(took), 2),
        "p99_ms_alone": round(median(p99["alone"]), 2),
        "p99_ms_with_replay": round(median(p99["with replay"]), 2),
        "p99_ratio": round(median(ratios), 3),
        "p99_ratios": [round(one, 2) for one in ratios],
        "failed": failed,
    }


def main() -> int:
    """Measure and print the figures; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.replay")
    parser.add_argument("--rate", type=float, default=100.0, help="requests/s of the clients")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = measure(arguments.rate, arguments.seconds, arguments.rounds)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    is_reached = found["replay_seconds"] <= MOST_SECONDS and found["p99_ratio"] <= MOST_RATIO
    return 0 if is_reached and not found["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
