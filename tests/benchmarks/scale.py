"""Time and memory of the pipeline by rows: `python -m tests.benchmarks.scale [rows ...]`.

A mixed source of 30 columns (numbers, texts, booleans, missing values) is made for each number
of rows and taken through the stages, each number in a process of its own. Time of the CPU, which
other work on the machine does not lengthen, should grow no faster than rows, and the peak of
memory above the start stay below six times the size of the source as an Arrow table; a start of
fewer rows is ruled by what libraries take, so look at the largest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from platform_assets.model_spec import (
    CandidateSpec,
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.model_spec.training import CLASSIFIERS
from serving_gateway.contract import DType
from tests.support.servers import ROOT

ROWS: Final = (10_000, 100_000)
ROWS_PER_ENTITY: Final = 2
CANDIDATES: Final = CLASSIFIERS[:3]
_KINDS: Final = (
    *((f"f{n}", DType.FP32, True) for n in range(12)),
    *((f"d{n}", DType.FP64, False) for n in range(4)),
    *((f"i{n}", DType.INT64, n % 2 == 0) for n in range(4)),
    *((f"b{n}", DType.BOOL, n % 2 == 0) for n in range(3)),
    *((f"t{n}", DType.BYTES, True) for n in range(4)),
)
"""Features: name, type, whether values are missing. With key, time and label: 30 columns."""


@dataclass(slots=True)
class Work:
    """What the stages hand on to each other, by name."""

    home: Path
    spec: ModelSpec
    values: dict[str, Any]


def _read(work: Work) -> None:
    from platform_assets.features.reading import read_source
    from platform_assets.resources.source import SourceResource

    work.values["source"] = read_source(work.spec, SourceResource(), print)


def _write(work: Work) -> None:
    from platform_assets.features.storage import write_feature_data

    source = work.values.pop("source")
    work.values["data"] = write_feature_data(source, work.spec, work.home / "feast/data", print)


def _check(work: Work) -> None:
    from platform_assets.features.checks import range_report

    range_report(work.values["source"].table, work.spec)


def _materialize(work: Work) -> None:
    from platform_assets.features.feast_definitions import feast_definitions
    from platform_assets.features.materialization import update_online
    from platform_assets.features.sources.reader import Progress
    from platform_assets.resources.feast import FeastResource

    feast = work.values["feast"] = FeastResource(state_dir=str(work.home / "feast"))
    data, spec = work.values["data"], work.spec
    feast.apply(feast_definitions(spec, feast.data_dir))
    update_online(feast, data, spec, Progress(print))


def _materialize_again(work: Work) -> None:
    from platform_assets.features.materialization import OnlineChanges, update_online
    from platform_assets.features.sources.reader import Progress

    feast, data = work.values["feast"], work.values["data"]
    assert update_online(feast, data, work.spec, Progress(print)) == OnlineChanges()


def _compare(work: Work) -> None:
    from platform_assets.features.consistency import compare_online

    compared = compare_online(work.values["feast"], work.values["data"], work.spec)
    assert not compared.differing, compared.differing[:3]


def _join(work: Work) -> None:
    from platform_assets.training.frame import training_rows

    data = work.values["data"]
    work.values["rows"] = training_rows(work.values["feast"], data, work.spec)
    work.values["classes"] = data.classes


def _split(work: Work) -> None:
    from platform_assets.training.splits import split_evaluation

    *sides, _ = split_evaluation(work.values.pop("rows"), work.spec)
    work.values["split"] = sides


def _train(candidate: str, work: Work) -> None:
    from platform_assets.training.candidates import build, expand
    from platform_assets.training.folds import folds
    from platform_assets.training.selection import cross_validate, evaluate, fit

    spec, classes = work.spec, work.values["classes"]
    training, evaluation = work.values["split"]
    [one] = [one for one in expand(spec) if one.name == candidate]
    cross_validate(build(one, spec), training, folds(training, spec), spec, classes)
    estimator, _ = fit(build(one, spec), training, spec)
    evaluate(estimator, evaluation, spec, classes)
    work.values[candidate] = estimator


def _export(work: Work) -> None:
    from platform_assets.export.conversion import export
    from platform_assets.export.parity import compare
    from platform_assets.export.runtime import model_inputs, run_graph
    from platform_assets.training.selection import answers_of

    _, evaluation = work.values.pop("split")
    signature = work.spec.signature(work.values["classes"])
    for candidate in CANDIDATES:
        estimator = work.values[candidate]
        graph = export(estimator, signature, work.spec.model_name)
        answered = run_graph(graph, model_inputs(signature, evaluation.features))
        expected = answers_of(estimator, evaluation, work.spec, work.values["classes"])
        parity = compare(
            answered[signature.label_output],
            answered["probabilities"],
            expected.labels,
            expected.probabilities,
        )
        print(candidate, len(graph), parity)
        assert parity.holds


STAGES: Final[tuple[tuple[str, Callable[[Work], None]], ...]] = (
    ("read", _read),
    ("check", _check),
    ("write", _write),
    ("materialize", _materialize),
    ("materialize again", _materialize_again),
    ("compare", _compare),
    ("join", _join),
    ("split", _split),
    *((name, partial(_train, name)) for name in CANDIDATES),
    ("export", _export),
)
"""In order; a candidate's stage is its cross-validation, a fit and the evaluation."""


def _make_source(path: Path, rows: int) -> int:
    """Write the source as CSV; return its size in bytes as an Arrow table."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    random = np.random.default_rng(20240301)
    made: dict[DType, Callable[[], Any]] = {
        DType.FP32: lambda: random.normal(size=rows).astype(np.float32).round(4),
        DType.FP64: lambda: random.normal(size=rows),
        DType.INT64: lambda: random.integers(0, 1_000_000, rows),
        DType.BOOL: lambda: random.random(rows) < 0.5,
        DType.BYTES: lambda: np.array([f"category {n}" for n in range(50)])[
            random.integers(0, 50, rows)
        ],
    }
    start = np.datetime64("2024-01-01T00:00:00", "s")
    columns: dict[str, Any] = {
        "entity_id": np.arange(rows) // ROWS_PER_ENTITY + 1,
        "event_timestamp": pa.array(start + np.arange(rows).astype("timedelta64[s]")).cast(
            pa.timestamp("s", tz="UTC")
        ),
    }
    for name, dtype, nullable in _KINDS:
        mask = random.random(rows) < 0.05 if nullable else None
        columns[name] = pa.array(made[dtype](), mask=mask)
    columns["label"] = random.integers(0, 2, rows)
    table = pa.table(columns)
    csv.write_csv(table, path)
    return int(table.nbytes)


def _spec(source: Path) -> ModelSpec:
    return ModelSpec(
        model_name="wide",
        task=Task.BINARY,
        source=Source(str(source)),
        features=tuple(FeatureSpec(*kind) for kind in _KINDS),
        target=Target("label", DType.INT64),
        candidates=tuple(CandidateSpec(name) for name in CANDIDATES),
        gates=Gates(metric_floor=0.5),
        join_key=JoinKey("entity_id"),
        event_time=EventTime("event_timestamp"),
        evaluation=Evaluation(metric="accuracy", folds=2, split=Split.ENTITY),
    )


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Give a function that returns the highest resident size since it was last asked."""
    import psutil

    process = psutil.Process()
    over = threading.Event()
    highest = 0

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.02):
            highest = max(highest, process.memory_info().rss)

    def asked() -> int:
        nonlocal highest
        found = max(highest, process.memory_info().rss)
        highest = 0
        return found

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def measure(rows: int) -> None:
    """Take a source of so many rows through all stages."""
    # What the libraries themselves take is not the data's.
    import duckdb  # noqa: F401
    import feast  # noqa: F401
    import ibis  # type: ignore[import-untyped]  # noqa: F401
    import onnxruntime  # noqa: F401
    import pandas  # noqa: F401
    import psutil
    import pyarrow as pa
    import sklearn.ensemble
    import sklearn.linear_model  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="scale-") as home, peak_memory() as peak:
        source = Path(home) / "wide.csv"
        size = _make_source(source, rows)
        work = Work(Path(home), _spec(source), {})
        pa.default_memory_pool().release_unused()
        start, highest = psutil.Process().memory_info().rss, 0
        peak()
        for name, stage in STAGES:
            began, worked = time.perf_counter(), time.process_time()
            stage(work)
            seconds, worked = time.perf_counter() - began, time.process_time() - worked
            grown = peak() - start
            highest = max(highest, grown)
            print(
                f"{name:<24} {rows:>9,} rows {seconds:>8.2f} s {worked / rows * 1e5:>8.2f} "
                f"CPU s/100,000 rows  memory +{grown / 1e6:,.0f} MB = {grown / size:.2f} x source",
                flush=True,
            )
        print(f"{'all':<24} {rows:>9,} rows, peak {highest / size:.2f} x {size / 1e6:,.0f} MB")


def main() -> None:
    """Measure each number of rows in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=list(ROWS))
    parser.add_argument("--here", action="store_true", help="in this process")
    asked = parser.parse_args()
    if asked.here:
        for rows in asked.rows:
            measure(rows)
        return
    for rows in asked.rows:
        command = [sys.executable, "-m", "tests.benchmarks.scale", "--here", str(rows)]
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
