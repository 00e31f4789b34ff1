"""The two sides of a comparison as columns: what was trained on, and what was answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from platform_assets.model_spec import ModelSpec, Task
from platform_assets.monitoring.binning import comparable
from platform_assets.monitoring.stability import ComparedRows
from platform_assets.resources.reference import read_reference
from platform_assets.resources.samples import SAMPLE_PREDICTION, SAMPLE_SCORE
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from platform_assets.resources.records import EvaluationSet

    Columns = dict[str, NDArray[Any]]

PREDICTION_COLUMN: Final = "prediction"
CONFIDENCE_COLUMN: Final = "largest probability"


def reference_features(data: bytes, spec: ModelSpec) -> ComparedRows:
    """Return the features of the rows that a version was trained on, comparable.

    Args:
        data: what `resources.reference.write_reference` wrote.
        spec: the model; of its features those that the rows have are taken.

    Raises:
        ValueError, KeyError: the bytes are something else.
    """
    sample = read_reference(data)
    return ComparedRows(
        {
            feature.name: comparable(sample.features[feature.name], feature.dtype)
            for feature in spec.features
            if feature.name in sample.features
        },
        sample.units,
    )


def feature_columns(table: pa.Table, spec: ModelSpec) -> Columns:
    """Return the features that `table` holds, comparable."""
    return {
        feature.name: comparable(table[feature.name].to_pandas(), feature.dtype)
        for feature in spec.features
        if feature.name in table.column_names
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


def sampled_predictions(table: pa.Table, spec: ModelSpec) -> Columns:
    """Return what the gateway answered, comparable with `reference_predictions`."""
    scores = comparable(_column(table, SAMPLE_SCORE), DType.FP32)
    if spec.task is Task.REGRESSION:
        return {PREDICTION_COLUMN: scores}
    labels = _column(table, SAMPLE_PREDICTION).astype(object)
    if spec.target.dtype is DType.BOOL:
        labels = labels.str.lower()
    return {PREDICTION_COLUMN: comparable(labels, DType.BYTES), CONFIDENCE_COLUMN: scores}


def _column(table: pa.Table, name: str) -> pd.Series[Any]:
    import pandas as pd

    if name in table.column_names:
        column: pd.Series[Any] = table[name].to_pandas()
        return column
    return pd.Series([None] * table.num_rows, dtype=object)
