"""Records of MLflow, as read by all slices."""

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
    """Which rows a training held out; also separates later rows from those it learned from."""

    split: str
    """`entity`: those whose hash by `seed` is below `fraction`. `time`: those from `cutoff` on.
    `entity_and_time`: those for which both hold."""
    seed: int = 0
    fraction: float = 0.0
    cutoff: str | None = None
    """Earliest time held out, UTC, with nanoseconds."""
    learned_before: str | None = None
    """Earliest time not learned from, if before `cutoff`."""
    group: str | None = None
    """Feature whose values were used instead of entities."""
    entities: str | None = None
    """What identified entities: the key's name, or for numbered rows a digest of the columns that
    identify a row; None if not recorded."""


@dataclass(frozen=True)
class RegisteredVersion:
    """MLflow's record of a version; `version` is also Triton's version directory."""

    model_name: str
    version: int
    run_id: str
    data_fingerprint: str
    signature: Signature
    code_version: str | None = None
    """Digest of the model file and of the locked packages; None if not recorded."""
    dagster_run_id: str | None = None
    """The Dagster run that trained it; None if not recorded."""
    split: SplitRecord | None = None
    """What its training held out; None if not recorded."""
    threshold: float | None = None
    """Probability from which it answers the second of two classes; None for the likeliest."""


@dataclass(frozen=True)
class EvaluationSet:
    """The held-out rows of a run, with scikit-learn's answers.

    `features`: DataFrame in tensor form and signature order, shape (rows, features).
    `label_true` and `labels` (predicted): shape (rows,), texts (object), int64 or bool as the
    user writes them, float64 for a regression. `probabilities`: shape (rows, classes),
    float64, in the order of the signature's classes; None for a model without them. `groups`:
    the entity of each row, shape (rows,), int64 or text. `times`: datetime64[ns] in UTC, shape
    (rows,); None where unknown.
    """

    features: pd.DataFrame
    label_true: NDArray[Any]
    labels: NDArray[Any]
    probabilities: NDArray[np.float64] | None
    groups: NDArray[Any]
    times: NDArray[np.datetime64] | None = None
    threshold: float | None = None
    """Probability from which the second of two classes was answered; None for the likeliest."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic on some rows, and a two-sided interval for its true value."""

    value: float
    low: float
    high: float
    confidence: float
    entities: int
    error: float = 0.0
    """Standard error used for the interval."""
    degrees: int = 0
    """Degrees of freedom of the interval; 0 where the rows do not determine one."""


@dataclass(frozen=True, slots=True)
class SliceEstimate:
    """A metric on the evaluation rows that have one value of a column."""

    column: str
    value: str
    rows: int
    estimate: Estimate


@dataclass(frozen=True)
class TrainedModel:
    """The best candidate, refitted, with the MLflow run that documents its training.

    `estimator` is a fitted pipeline over a frame in tensor form with the signature's features
    (`training.preprocessing`); `metrics` are those on the held-out rows; `picture` is a PNG of
    its answers to them.
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
    """The model file's metric on the evaluation rows, with its interval."""
    split: SplitRecord
    """Which rows were held out."""
    classes_not_evaluated: tuple[int | str | bool, ...]
    picture: bytes
    slices: tuple[SliceEstimate, ...] = ()
    """The same metric on each slice judged by the gates."""
    threshold: float | None = None
    """Probability from which it answers the second of two classes; None for the likeliest."""
