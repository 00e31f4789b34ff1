"""What MLflow records of a version, as every slice reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving_gateway.contract import Signature

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RegisteredVersion:
    """A version as MLflow records it; `version` is Triton's version directory too."""

    model_name: str
    version: int
    run_id: str
    data_fingerprint: str
    signature: Signature


@dataclass(frozen=True)
class EvaluationSet:
    """The held-out rows of a run, with the answers that scikit-learn gave.

    `features`: DataFrame in signature order, shape (rows, features), float32 columns;
    `label_true` and `labels` (predicted): shape (rows,), int64; `probabilities`: shape
    (rows, classes), float64, or None for a model without them.
    """

    features: pd.DataFrame
    label_true: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None
