"""Comparable columns of the reference and of the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from platform_assets.model_spec import ModelSpec, Task
from platform_assets.monitoring.binning import comparable
from platform_assets.monitoring.stability import ComparedRows
from platform_assets.monitoring.units import Columns
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.reference import read_reference
from serving_gateway.contract import LOG_PREDICTION, LOG_SCORE, DType

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_COLUMN: Final = "prediction"
CONFIDENCE_COLUMN: Final = "largest probability"


def reference_features(data: bytes, spec: ModelSpec) -> ComparedRows:
    """Return the features that a version was trained on, comparable; errors of `read_reference`."""
    sample = read_reference(data)
    return ComparedRows(feature_columns(sample.features, spec), sample.units)


def feature_columns(rows: pd.DataFrame, spec: ModelSpec) -> Columns:
    """Return those of the model's features that the rows have, comparable."""
    return {
        feature.name: comparable(rows[feature.name], feature.dtype)
        for feature in spec.features
        if feature.name in rows
    }


def reference_predictions(evaluation: EvaluationSet, spec: ModelSpec) -> ComparedRows:
    """Return what scikit-learn answered for the held-out rows, comparable."""
    import pandas as pd

    answers = pd.Series(evaluation.labels)
    units = pd.factorize(evaluation.groups)[0].astype("int64")
    if spec.task is Task.REGRESSION:
        return ComparedRows({PREDICTION_COLUMN: comparable(answers, DType.FP32)}, units)
    columns = {PREDICTION_COLUMN: comparable(answers, DType.BYTES)}
    if evaluation.probabilities is not None:
        largest = pd.Series(evaluation.probabilities.max(axis=1))
        columns[CONFIDENCE_COLUMN] = comparable(largest, DType.FP32)
    return ComparedRows(columns, units)


def sampled_predictions(rows: pd.DataFrame, spec: ModelSpec) -> Columns:
    """Return what the gateway answered, comparable with `reference_predictions`."""
    rows = rows.reindex(columns=[LOG_PREDICTION, LOG_SCORE])
    scores = comparable(rows[LOG_SCORE], DType.FP32)
    if spec.task is Task.REGRESSION:
        return {PREDICTION_COLUMN: scores}
    labels = rows[LOG_PREDICTION].astype(object)
    if spec.target.answer_dtype is DType.BOOL:
        labels = labels.str.lower()
    return {PREDICTION_COLUMN: comparable(labels, DType.BYTES), CONFIDENCE_COLUMN: scores}
