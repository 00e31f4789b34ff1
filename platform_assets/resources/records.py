"""What MLflow records of a version, as every slice reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from serving_gateway.contract import Signature

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class SplitRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which rows a training held out; it separates later rows from those it learned from."""

    split: str
    """`entity`: those whose hash by `seed` is below `fraction`. `time`: those from `cutoff` on.
    `entity_and_time`: those of which both is true."""
    seed: int = 0
    fraction: float = 0.0
    cutoff: str | None = None
    """First time that was held out, UTC, with nanoseconds."""
    learned_before: str | None = None
    """First time that was not learned from, where it lies before `cutoff`."""
    group: str | None = None
    """Feature whose values took the place of entities."""
    entities: str | None = None
    """What told them apart: the key's name, or for numbered rows a digest of the columns that a
    row is known by; None when it was not recorded."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version as MLflow records it; `version` is Triton's version directory too."""

    model_name: str
    version: int
    run_id: str
    data_fingerprint: str
    signature: Signature
    code_version: str | None = None
    """Digest of the model file and of the locked packages; None when it was not recorded."""
    dagster_run_id: str | None = None
    """The Dagster run that trained it; None when it was not recorded."""
    split: SplitRecord | None = None
    """What its training held out; None when it was not recorded."""
    threshold: float | None = None
    """Probability from which on it answers the second of two classes; None for the likeliest."""


@dataclass(frozen=True)
class EvaluationSet:
    """The held-out rows of a run, with the answers that scikit-learn gave.

    `features`: DataFrame in tensor form and signature order, shape (rows, features).
    `label_true` and `labels` (predicted): shape (rows,), texts (object), int64 or bool as the
    user writes them, float64 for a regression. `probabilities`: shape (rows, classes),
    float64, in the order of the signature's classes; None for a model without them. `groups`:
    the entity of each row, shape (rows,), int64 or text. `times`: datetime64[ns] in UTC, shape
    (rows,); None where nothing is known of times.
    """

    features: pd.DataFrame
    label_true: NDArray[Any]
    labels: NDArray[Any]
    probabilities: NDArray[np.float64] | None
    groups: NDArray[Any]
    times: NDArray[np.datetime64] | None = None
    threshold: float | None = None
    """Probability from which on the second of two classes was answered; None for the likeliest."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic of some rows, and a two-sided interval for its true value."""

    value: float
    low: float
    high: float
    confidence: float
    entities: int
    error: float = 0.0
    """Standard error that the interval was made with."""
    degrees: int = 0
    """Its degrees of freedom; 0 where the rows do not determine an interval."""


@dataclass(frozen=True, slots=True)
class SliceEstimate:
    """A metric on the evaluation rows with one value of a column."""

    column: str
    value: str
    rows: int
    estimate: Estimate


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
    slices: tuple[SliceEstimate, ...] = ()
    """The same metric on each slice that the gates judge."""
    threshold: float | None = None
    """Probability from which on it answers the second of two classes; None for the likeliest."""
