"""Rows of mixed types for tests: numbers, whole numbers, booleans, texts, missing values."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

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
from platform_assets.training.rows import Rows
from serving_gateway.contract import DType

MIXED_FEATURES = (
    FeatureSpec("weight", DType.FP32),
    FeatureSpec("city", DType.BYTES, nullable=True),
    FeatureSpec("age", DType.INT64),
    FeatureSpec("income", DType.FP64, nullable=True),
    FeatureSpec("member", DType.BOOL),
    FeatureSpec("visits", DType.INT64, nullable=True),
    FeatureSpec("colour", DType.BYTES),
    FeatureSpec("speed", DType.FP32, nullable=True),
    FeatureSpec("insured", DType.BOOL, nullable=True),
    FeatureSpec("distance", DType.FP64),
)
TEXTS = ["", "rød", "Zürich", "서울", "a b", "🚲", "x" * 200]
CLASSES: dict[str, tuple[Any, ...]] = {
    "texts": ("yes", "no", "vielleicht"),
    "two texts": ("no", "yes"),
    "integers": (7, 3, 5),
    "booleans": (False, True),
}


def mixed_spec(task: Task, classes: tuple[Any, ...] = (), **changes: Any) -> ModelSpec:
    """A model over `MIXED_FEATURES`; one quick candidate and a floor that all reach."""
    kinds = {str: DType.BYTES, int: DType.INT64, bool: DType.BOOL}
    regression = task is Task.REGRESSION
    spec = ModelSpec(
        model_name="mixed",
        task=task,
        source=Source("${SOURCE_PATH}"),
        features=MIXED_FEATURES,
        target=Target(
            "outcome",
            DType.FP64 if regression else kinds[type(classes[0])],
            classes,
        ),
        candidates=(CandidateSpec("decision_tree"),),
        gates=Gates(metric_floor=-1e9 if regression else 0),
        join_key=JoinKey("entity_id"),
        event_time=EventTime("event_timestamp"),
        evaluation=Evaluation(
            metric="r2" if regression else "accuracy", folds=3, split=Split.ENTITY
        ),
    )
    return dataclasses.replace(spec, **changes)


def mixed_frame(count: int, seed: int, *, wild: bool = False) -> pd.DataFrame:
    """`count` rows in tensor form; `wild` ones also hold what training never saw."""
    rng = np.random.default_rng(seed)

    def gaps(values: Any, dtype: Any) -> Any:
        cells = values.astype(dtype)
        cells[rng.random(count) < 0.15] = np.nan
        return cells

    texts = np.array(TEXTS + (["never seen", "ZÜRICH", "서 울"] if wild else []), dtype=object)
    frame = pd.DataFrame(
        {
            "weight": rng.normal(70, 12, count).astype(np.float32),
            "city": texts[rng.integers(0, len(texts), count)],
            "age": rng.integers(-5, 99, count),
            "income": gaps(rng.lognormal(9, 2, count), np.float64),
            "member": rng.random(count) < 0.4,
            "visits": gaps(rng.integers(0, 9, count), np.float64),
            "colour": texts[rng.integers(1, 4, count)],
            "speed": gaps(rng.normal(0, 1e-3, count), np.float32),
            "insured": gaps(rng.random(count) < 0.7, np.float32),
            "distance": rng.normal(1e6, 1, count),
        }
    )
    if wild:
        for name, extremes in {
            "weight": [3e38, -3e38, 1e-40, 0.0, 1e10],
            "income": [1e300, -1e300, 1e-300, 5e-324, 1e15],
            "distance": [1e30, -1e30, 16777217.0, 1e-12, 0.1],
        }.items():
            chosen = rng.random(count) < 0.1
            cells = frame[name].to_numpy(copy=True)
            cells[chosen] = rng.choice(np.array(extremes, dtype=cells.dtype), chosen.sum())
            frame[name] = cells
        ages = np.array([2**62 + 1, -(2**62) - 1, 2**53 + 1, 2**24 + 1], dtype=np.int64)
        chosen = rng.random(count) < 0.1
        cells = frame["age"].to_numpy(copy=True)
        cells[chosen] = rng.choice(ages, chosen.sum())
        frame["age"] = cells
    return frame


def mixed_rows(spec: ModelSpec, count: int = 600, seed: int = 1) -> Rows:
    """Training rows whose outcome depends on numbers, texts and gaps alike."""
    frame = mixed_frame(count, seed)
    rng = np.random.default_rng(seed + 1)
    signal = (
        (frame["weight"] - 70) / 12
        + 1.5 * (frame["city"] == "서울")
        - frame["member"]
        + frame["income"].isna()
        + frame["visits"].fillna(4) / 4
        + rng.normal(0, 0.5, count)
    ).to_numpy()
    if spec.task is Task.REGRESSION:
        labels: Any = signal * 1000 + 250.0
    else:
        ranks = np.argsort(np.argsort(signal)) * len(spec.target.classes) // count
        plain = [int(one) if isinstance(one, bool) else one for one in spec.target.classes]
        labels = np.array(plain, dtype=object if isinstance(plain[0], str) else np.int64)[ranks]
    times = np.datetime64("2024-01-01", "ns") + np.arange(count) * np.timedelta64(1, "h")
    return Rows(frame, labels, np.arange(count, dtype=np.int64) + 1, times)
