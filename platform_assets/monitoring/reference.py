"""The two sides of a comparison as columns: what was trained on, and what was answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from platform_assets.model_spec import ModelSpec, Task
from platform_assets.monitoring.binning import comparable
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


def features_file(data_dir: Path, spec: ModelSpec) -> Path:
    """Path of the rows that the model's versions are trained on."""
    return data_dir / spec.model_name / "features.parquet"


def reference_features(path: Path, spec: ModelSpec, max_rows: int) -> Columns:
    """Read the features of the training rows; of more than `max_rows`, evenly spaced ones.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file, or a feature is missing in it.
    """
    import numpy as np
    from pyarrow import parquet

    table = parquet.ParquetFile(path).read(columns=list(spec.feature_names))
    missing = [name for name in spec.feature_names if name not in table.column_names]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    if table.num_rows > max_rows:
        table = table.take(np.linspace(0, table.num_rows - 1, max_rows).astype(np.int64))
    return feature_columns(table, spec)


def feature_columns(table: pa.Table, spec: ModelSpec) -> Columns:
    """Return the features that `table` holds, comparable."""
    return {
        feature.name: comparable(table[feature.name].to_pandas(), feature.dtype)
        for feature in spec.features
        if feature.name in table.column_names
    }


def reference_predictions(evaluation: EvaluationSet, spec: ModelSpec) -> Columns:
    """Return what scikit-learn answered for the held-out rows, comparable."""
    import pandas as pd

    answers = pd.Series(evaluation.labels)
    if spec.task is Task.REGRESSION:
        return {PREDICTION_COLUMN: comparable(answers, DType.FP32)}
    columns = {PREDICTION_COLUMN: comparable(answers, DType.BYTES)}
    if evaluation.probabilities is not None:
        largest = pd.Series(evaluation.probabilities.max(axis=1))
        columns[CONFIDENCE_COLUMN] = comparable(largest, DType.FP32)
    return columns


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
