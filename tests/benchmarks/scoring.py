"""Batch scoring through a real Triton: `python -m tests.benchmarks.scoring [--rows N]`.

Rows per second, from the features of all entities to the file of predictions, and the peak of
memory above the start. Ten features each: `numbers` are 32-bit floats in one tensor, `mixed` has
integers, texts, booleans and missing values, one tensor each. Triton and the scoring share the
cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from platform_assets.export.conversion import export
from platform_assets.export.inspection import inspect_graph
from platform_assets.export.triton_config import ServingOptions, model_config, to_text
from platform_assets.features.reading import TIMELESS
from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import FEATURES_FILE
from platform_assets.model_spec import (
    CandidateSpec,
    Evaluation,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonResource
from platform_assets.scoring.queries import newest_rows
from platform_assets.scoring.writing import PredictionWriter
from platform_assets.training.candidates import build, expand
from platform_assets.training.frame import tensor_form
from serving_gateway.contract import DType
from tests.benchmarks.scale import peak_memory
from tests.support.onnx_models import write_config, write_version
from tests.support.servers import run_triton

ROWS: Final = 1_000_000
"""Entities that are scored."""
_LEARNED: Final = 2_000
_KINDS: Final = {
    "numbers": [(DType.FP32, False)] * 10,
    "mixed": [
        *[(DType.FP32, True)] * 4,
        *[(DType.FP64, False)] * 2,
        *[(DType.INT64, False)] * 2,
        (DType.BOOL, False),
        (DType.BYTES, True),
    ],
}
_GROUP_ROWS: Final = 100_000
_TEXTS: Final = np.array([f"category {number}" for number in range(50)], dtype=object)


def _spec(name: str) -> ModelSpec:
    kinds = _KINDS[name]
    return ModelSpec(
        model_name=name,
        task=Task.BINARY,
        source=Source("unused"),
        features=tuple(FeatureSpec(f"f{n}", *kind) for n, kind in enumerate(kinds)),
        target=Target("label", DType.INT64, classes=(0, 1)),
        candidates=(CandidateSpec("logistic_regression"), CandidateSpec("hist_gradient_boosting")),
        gates=Gates(metric_floor=0.5),
        join_key=JoinKey("entity_id"),
        evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    )


def _table(spec: ModelSpec, first: int, rows: int) -> pa.Table:
    random = np.random.default_rng(first)
    made: dict[DType, Any] = {
        DType.FP32: lambda: random.normal(size=rows).astype(np.float32),
        DType.FP64: lambda: random.normal(size=rows),
        DType.INT64: lambda: random.integers(0, 1_000_000, rows),
        DType.BOOL: lambda: random.random(rows) < 0.5,
        DType.BYTES: lambda: _TEXTS[random.integers(0, len(_TEXTS), rows)],
    }
    columns: dict[str, Any] = {"entity_id": np.arange(first, first + rows)}
    columns[spec.event_timestamp] = pa.repeat(pa.scalar(TIMELESS, pa.timestamp("us", "UTC")), rows)
    for one in spec.features:
        mask = random.random(rows) < 0.05 if one.nullable else None
        columns[one.name] = pa.array(made[one.dtype](), mask=mask)
    return pa.table(columns)


def _write_features(spec: ModelSpec, folder: Path, rows: int) -> FeatureData:
    path = folder / FEATURES_FILE
    marked = {b"serving.data_fingerprint": b"benchmark"}
    schema = _table(spec, 0, 1).schema.with_metadata(marked)
    with parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, _GROUP_ROWS):
            part = _table(spec, first, min(_GROUP_ROWS, rows - first))
            writer.write_table(part.replace_schema_metadata(marked))
    return FeatureData(spec.name, "benchmark", str(path), "", rows, rows, "benchmark")


def _package(spec: ModelSpec, repository: Path) -> list[RegisteredVersion]:
    """Train and package a version of each candidate."""
    table, signature = _table(spec, 0, _LEARNED).to_pandas(), spec.signature((0, 1))
    labels = (table["f0"].fillna(0) + table["f1"].fillna(0) > 0).to_numpy(np.int64)
    versions = []
    for version, candidate in enumerate(expand(spec), start=1):
        estimator = build(candidate, spec).fit(tensor_form(table, spec), labels)
        graph = export(estimator, signature, spec.name)
        write_version(repository, spec.name, version, graph)
        versions.append(RegisteredVersion(spec.name, version, candidate.name, "", signature))
    summary, served = inspect_graph(graph), [one.version for one in versions]
    config = model_config(spec.name, summary.inputs, summary.outputs, served, ServingOptions())
    write_config(repository, spec.name, to_text(config))
    return versions


def _measure(
    spec: ModelSpec, version: RegisteredVersion, data: FeatureData, home: Path, url: str
) -> None:
    now = datetime.now(UTC)
    endpoints = TritonResource(url=url, control_key="").endpoints()
    writer = PredictionWriter(spec, version, endpoints, now, Progress())
    with peak_memory() as peak:
        start = peak()
        began, worked = time.perf_counter(), time.process_time()
        made = writer.write(newest_rows(data, spec, now), home / "scored.parquet", home)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        grown = max(0, peak() - start)
    print(
        f"{spec.name:<8} {version.run_id:<24} {made.rows:>9,} rows {seconds:>7.1f} s "
        f"{made.rows / seconds:>9,.0f} rows/s, {worked:.1f} s of CPU here, "
        f"memory +{grown / 1e6:,.0f} MB",
        flush=True,
    )


def main() -> None:
    """Measure each kind of features with each estimator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="entities that are scored")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="scoring-") as folder:
        home = Path(folder)
        versions = {name: _package(_spec(name), home / "repository") for name in _KINDS}
        with run_triton(home / "repository", home / "triton") as triton:
            for name, served in versions.items():
                spec = _spec(name)
                data = _write_features(spec, home, rows)
                for version in served:
                    _measure(spec, version, data, home, triton.http_url)


if __name__ == "__main__":
    main()
