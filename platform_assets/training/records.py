"""What training hands on to packaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from platform_assets.resources.records import SplitRecord
from platform_assets.training.uncertainty import Estimate
from serving_gateway.contract import Signature


@dataclass(frozen=True)
class TrainedModel:
    """The best candidate, refitted, with the MLflow run that tells how it came to be.

    `estimator` is a fitted pipeline over a frame in tensor form with the signature's features
    (`training.preprocessing`); `metrics` are those of the held-out rows; `picture` is a PNG of
    its answers for them.
    """

    model_name: str
    run_id: str
    estimator: Any
    signature: Signature
    metrics: dict[str, float]
    data_fingerprint: str
    code_version: str
    dagster_run_id: str
    """The Dagster run that trained it."""
    evaluation_rows: int
    metric: Estimate
    """The metric of the model file on the evaluation rows, with its interval."""
    split: SplitRecord
    """Which rows were held out."""
    classes_not_evaluated: tuple[int | str | bool, ...]
    picture: bytes
