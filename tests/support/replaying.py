"""A candidate, production and a log for tests of the gate `replay`; versions are functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from platform_assets.model_spec import FeatureSpec, Gates, JoinKey, ModelSpec, Source, Target, Task
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.triton import TritonRefused
from platform_assets.serving.loaded_version import LoadedVersion
from serving_gateway.contract import (
    LOG_ENTITY,
    LOG_ID,
    LOG_PREDICTION,
    LOG_ROW,
    LOG_SCORE,
    LOG_TIME,
    LOG_VERSION,
    DType,
    Signature,
)

MODEL = "payments"
CANDIDATE, PRODUCTION = 2, 1
SPEC = ModelSpec(
    model_name=MODEL,
    task=Task.BINARY,
    source=Source("unused"),
    features=(
        FeatureSpec("amount", DType.FP32),
        FeatureSpec("visits", DType.INT64, nullable=True),
        FeatureSpec("region", DType.BYTES),
    ),
    target=Target("label", DType.INT64, classes=(0, 1)),
    gates=Gates(metric_floor=0.5),
    join_key=JoinKey("customer"),
)
SIGNATURE = SPEC.signature((0, 1))
Tensors = Mapping[str, NDArray[Any]]
Answer = Callable[[Tensors], dict[str, NDArray[Any]]]


def sigmoid_model(scale: float = 1.0, threshold: float = 50.0) -> Answer:
    """A version that answers 1 where `scale * amount` exceeds the threshold."""

    def answer(inputs: Tensors) -> dict[str, NDArray[Any]]:
        amount = scale * inputs["amount"][:, 0].astype(np.float64)
        likely = 1 / (1 + np.exp(np.clip((threshold - amount) / 10, -50, 50)))
        return {
            "label": (likely > 0.5).astype(np.int64),
            "probabilities": np.stack([1 - likely, likely], axis=1),
        }

    return answer


@dataclass
class FakeEndpoint:
    """Stands for one Triton; `answers` are its versions."""

    answers: Mapping[int, Answer]
    asked: list[tuple[int, int]] = field(default_factory=list)
    """Version and number of rows of each inference."""
    inputs: list[Tensors] = field(default_factory=list)

    @contextmanager
    def connection(self, doing: str) -> Iterator[Callable[..., dict[str, NDArray[Any]]]]:
        """Yield what infers."""

        def infer(
            model: str, version: int, inputs: Tensors, outputs: Sequence[str]
        ) -> dict[str, NDArray[Any]]:
            self.asked.append((version, len(next(iter(inputs.values())))))
            self.inputs.append(inputs)
            found = self.answers[version](inputs)
            return {name: found[name] for name in outputs}

        yield infer


def refusing(answer: Answer, is_refused: Callable[[Tensors], bool]) -> Answer:
    """The same version, but an inference with such rows is refused."""

    def guarded(inputs: Tensors) -> dict[str, NDArray[Any]]:
        if is_refused(inputs):
            raise TritonRefused("refused", status=500, reason="no kernel for this row")
        return answer(inputs)

    return guarded


def loaded(
    candidate: Answer,
    production: Answer | None,
    *,
    spec: ModelSpec = SPEC,
    signature: Signature = SIGNATURE,
    old: Signature | None = None,
    is_ready: bool = True,
    same_graph: bool = False,
) -> tuple[LoadedVersion, FakeEndpoint]:
    """A loaded candidate next to production (None: there is none), and the Triton of both."""
    answers = {CANDIDATE: candidate} | ({PRODUCTION: production} if production else {})
    endpoint = FakeEndpoint(answers)
    held = pd.DataFrame({"amount": np.linspace(0, 100, 200, dtype=np.float32)})
    answered = candidate({"amount": held[["amount"]].to_numpy()})
    labels = answered[signature.label_output]
    evaluation = EvaluationSet(
        held, labels, labels, answered.get("probabilities"), np.arange(len(held))
    )
    versions = {
        number: RegisteredVersion(MODEL, number, f"run-{number}", "", one)
        for number, one in ((CANDIDATE, signature), (PRODUCTION, old or signature))
    }
    ready = (PRODUCTION, CANDIDATE) if is_ready else (CANDIDATE,)
    fake = SimpleNamespace(
        spec=spec,
        identity={"version": CANDIDATE, "load_id": "load"},
        registered=versions[CANDIDATE],
        production_version=PRODUCTION if production else None,
        has_graph_of=lambda version: same_graph,
        version_record=lambda version: versions[version],
        evaluation=evaluation,
        triton=SimpleNamespace(ready_versions=lambda name: ready, endpoints=lambda: (endpoint,)),
    )
    return cast(LoadedVersion, fake), endpoint


def logged_rows(rows: int = 400, seed: int = 1, **columns: Any) -> pa.Table:
    """Rows as a gateway logs them, of requests with one row each; `columns` replace some."""
    random = np.random.default_rng(seed)
    amount = random.uniform(0, 100, rows).astype(np.float32)
    now = datetime.now(UTC)
    labels = np.where(amount > 50, "1", "0")
    table = {
        "amount": amount,
        "visits": pa.array(random.integers(0, 9, rows), mask=random.random(rows) < 0.1),
        "region": pa.array(np.array(["north", "süd"])[random.integers(0, 2, rows)]),
        LOG_ID: [f"request-{row}" for row in range(rows)],
        LOG_ROW: pa.array([0] * rows, pa.int32()),
        LOG_TIME: pa.array(
            [now - timedelta(seconds=rows - row) for row in range(rows)], pa.timestamp("us", "UTC")
        ),
        LOG_ENTITY: pa.nulls(rows, pa.string()),
        LOG_VERSION: pa.array([PRODUCTION] * rows, pa.int64()),
        LOG_PREDICTION: labels,
        LOG_SCORE: pa.array([0.9] * rows),
    } | columns
    return pa.table(table)


def write_log(root: Path, table: pa.Table, *, by_day: bool = True) -> None:
    """Write a file of a model's log."""
    folder = root / MODEL
    if by_day:
        folder /= f"date={datetime.now(UTC):%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, folder / f"{len([*folder.iterdir()])}.parquet")
