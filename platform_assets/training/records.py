"""What training hands on to packaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving_gateway.contract import Signature


@dataclass(frozen=True)
class TrainedModel:
    """The best candidate, refitted, with the MLflow run that tells how it came to be.

    `estimator` is a fitted scikit-learn classifier over a float32 array of shape
    (rows, len(signature.features)); `metrics` are those of the held-out rows.
    """

    model_name: str
    run_id: str
    estimator: Any
    signature: Signature
    metrics: dict[str, float]
    data_fingerprint: str
