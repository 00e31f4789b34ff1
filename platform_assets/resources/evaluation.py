"""The held-out rows of a run as a Parquet file, and back."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from platform_assets.resources.records import EvaluationSet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

EVALUATION_ARTIFACT: Final = "evaluation/evaluation.parquet"
"""Where a run keeps its evaluation set."""
TRUE_COLUMN: Final = "label_true"
LABEL_COLUMN: Final = "label"
PROBABILITY_PREFIX: Final = "probability_"


def write_evaluation(
    features: pd.DataFrame,
    label_true: NDArray[np.int64],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64] | None,
) -> bytes:
    """Return the evaluation set as Parquet bytes.

    Args:
        features: shape (rows, features), float32 columns in signature order.
        label_true: shape (rows,).
        labels: predicted, shape (rows,).
        probabilities: shape (rows, classes), or None for a model without them.

    Raises:
        ValueError: a feature has the name of a column that the file needs for itself.
    """
    frame = features.reset_index(drop=True).copy()
    reserved = [
        name
        for name in frame.columns
        if name in {TRUE_COLUMN, LABEL_COLUMN} or name.startswith(PROBABILITY_PREFIX)
    ]
    if reserved:
        raise ValueError(f"feature names {reserved} are reserved: rename the features")
    frame[TRUE_COLUMN] = label_true
    frame[LABEL_COLUMN] = labels
    if probabilities is not None:
        for index in range(probabilities.shape[1]):
            frame[f"{PROBABILITY_PREFIX}{index}"] = probabilities[:, index]
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def read_evaluation(data: bytes) -> EvaluationSet:
    """Read what `write_evaluation` wrote; Parquet only, nothing is unpickled."""
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(data))
    columns = [name for name in frame.columns if name.startswith(PROBABILITY_PREFIX)]
    columns.sort(key=lambda name: int(name.removeprefix(PROBABILITY_PREFIX)))
    own = {TRUE_COLUMN, LABEL_COLUMN, *columns}
    return EvaluationSet(
        features=frame[[name for name in frame.columns if name not in own]],
        label_true=frame[TRUE_COLUMN].to_numpy(dtype=np.int64),
        labels=frame[LABEL_COLUMN].to_numpy(dtype=np.int64),
        probabilities=frame[columns].to_numpy(dtype=np.float64) if columns else None,
    )
