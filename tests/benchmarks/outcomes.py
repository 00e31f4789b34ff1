"""A million predictions joined with their outcomes: `python -m tests.benchmarks.outcomes [rows]`.

Outcomes come in random order, 10 % of them late, 1 % twice and 1 % contradicted. The join has to
count each exactly, give the same rows from other files, and take at most 60 s and 1 GiB.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from platform_assets.model_spec import Outcomes, Target, Task
from platform_assets.quality.matching import match
from platform_assets.quality.records import OutcomeCounts
from tests.support.models import IRIS
from tests.support.prediction_log import BEGIN, LOG, OUTCOMES

ROWS: Final = 1_000_000
MAX_SECONDS: Final = 60.0
MAX_BYTES: Final = 1 << 30
_DAY: Final = 86_400_000_000
_FILES: Final = 100
_SPEC: Final = replace(
    IRIS,
    model_name="million",
    task=Task.BINARY,
    target=Target("left", classes=("no", "yes")),
    outcomes=Outcomes(outcome_delay=timedelta(days=1)),
)


def write(root: Path, rows: int, seed: int) -> OutcomeCounts:
    """Write the log and the outcomes of one day, in an order by `seed`; return the true counts."""
    draw = np.random.default_rng(1)
    ids = pa.array([f"{hashlib.md5(str(n).encode()).hexdigest()}" for n in range(rows)])
    at = round(BEGIN.timestamp() * 1e6) + np.sort(draw.integers(0, _DAY, rows))
    truth = draw.random(rows) < 0.3
    late = draw.random(rows) < 0.1
    received = at + np.where(late, _DAY + 1_000_000, 1_000_000)
    again, against = (np.flatnonzero(draw.random(rows) < 0.01) for _ in range(2))
    score = draw.random(rows)
    log = pa.table(
        {
            "sample_id": ids,
            "sample_row": pa.array(np.zeros(rows, np.int32)),
            "sample_time": pa.array(at).cast(pa.timestamp("us", "UTC")),
            "sample_entity": pa.nulls(rows, pa.string()),
            "sample_version": pa.array(draw.integers(1, 3, rows)),
            "sample_prediction": _labels(draw.random(rows) < 0.3),
            "sample_score": pa.array(score),
            "sample_probabilities": pa.ListArray.from_arrays(
                pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32)),
                pa.array(np.column_stack([score, 1 - score]).ravel()),
            ),
            "sample_b_version": pa.nulls(rows, pa.int64()),
            "sample_b_prediction": pa.nulls(rows, pa.string()),
            "sample_b_score": pa.nulls(rows, pa.float64()),
        },
        schema=LOG,
    )
    which = np.concatenate([np.arange(rows), again, against])
    values = np.concatenate([truth, truth[again], ~truth[against]])
    times = np.concatenate([received, received[again] + 5, received[against] + 7])
    order = np.random.default_rng(seed).permutation(len(which))
    outcomes = pa.table(
        {
            "prediction_id": ids.take(pa.array(which[order])),
            "row": pa.array(np.zeros(len(which), np.int32)),
            "outcome": _labels(values[order]),
            "observed_at": pa.nulls(len(which), pa.timestamp("us", "UTC")),
            "received_at": pa.array(times[order]).cast(pa.timestamp("us", "UTC")),
        },
        schema=OUTCOMES,
    )
    _write(log, root / "million" / f"date={BEGIN.date()}")
    # Files are read by the day of the outcomes; a day too early is within what is read.
    _write(outcomes, root / "million" / "outcomes" / f"date={BEGIN.date()}")
    return OutcomeCounts(
        predictions=rows,
        matured=rows,
        answered=rows,
        late=int(late.sum()),
        duplicate=len(again),
        contradicting=len(against),
    )


def _labels(values: np.ndarray) -> pa.Array:
    return pa.array(["no", "yes"]).take(pa.array(values.astype(np.int64)))


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True)
    size = -(-table.num_rows // _FILES)
    for number in range(_FILES):
        parquet.write_table(table.slice(number * size, size), folder / f"{number:03d}.parquet")


def join(root: Path) -> tuple[OutcomeCounts, str]:
    """Return the counts, and a digest of the joined rows."""
    until = BEGIN + timedelta(days=1)
    with match(root, _SPEC, since=BEGIN, until=until, now=BEGIN + timedelta(days=9)) as found:
        [[digest]] = found.database.sql(
            "SELECT bit_xor(hash(id, row, answered_at, version, answer, outcome, is_late, "
            "duplicate, contradicting)) FROM matched"
        ).fetchall()
        return found.counts(), str(digest)


def main(rows: int = ROWS) -> int:
    """Print time, memory and whether all counts are exact; 1 where a target is missed."""
    with tempfile.TemporaryDirectory(prefix="outcomes-") as folder:
        expected = [write(Path(folder, str(seed)), rows, seed) for seed in range(2)]
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        first = join(Path(folder, "0"))
        seconds = time.monotonic() - began
        # Linux counts kilobytes; what writing took is a lower bound of the peak.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        second = join(Path(folder, "1"))
    is_exact = first[0] == expected[0] and first == second
    print(f"{rows:,} predictions: {seconds:.1f} s, peak {peak / 2**20:,.0f} MiB")
    print(f"before the join {before / 1024:,.0f} MiB; {first[0]}")
    print("exact, and the same from other files" if is_exact else f"NOT exact: {second}")
    return 0 if is_exact and seconds <= MAX_SECONDS and peak <= MAX_BYTES else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
