"""Write and read the held-out rows of a run as Parquet."""

from __future__ import annotations

import io
from typing import Any, Final

from platform_assets.resources.records import EvaluationSet

EVALUATION_ARTIFACT: Final = "evaluation/evaluation.parquet"
"""Artifact path of a run's evaluation set."""
_OWN: Final = "serving."
TRUE_COLUMN: Final = f"{_OWN}label_true"
LABEL_COLUMN: Final = f"{_OWN}label"
GROUP_COLUMN: Final = f"{_OWN}group"
TIME_COLUMN: Final = f"{_OWN}time"
THRESHOLD_COLUMN: Final = f"{_OWN}threshold"
PROBABILITY_PREFIX: Final = f"{_OWN}probability_"


def write_evaluation(evaluation: EvaluationSet) -> bytes:
    """Return the evaluation set as Parquet bytes.

    Raises:
        ValueError: a feature has the name of one of the file's own columns.
    """
    reserved = [name for name in evaluation.features.columns if name.startswith(_OWN)]
    if reserved:
        raise ValueError(f"feature names {reserved} are reserved: rename the features")
    own: dict[str, Any] = {
        TRUE_COLUMN: evaluation.label_true,
        LABEL_COLUMN: evaluation.labels,
        GROUP_COLUMN: evaluation.groups,
    }
    if evaluation.times is not None:
        own[TIME_COLUMN] = evaluation.times
    if evaluation.threshold is not None:
        own[THRESHOLD_COLUMN] = evaluation.threshold
    if evaluation.probabilities is not None:
        for index, column in enumerate(evaluation.probabilities.T):
            own[f"{PROBABILITY_PREFIX}{index}"] = column
    return evaluation.features.reset_index(drop=True).assign(**own).to_parquet(index=False)


def read_evaluation(data: bytes) -> EvaluationSet:
    """Read the output of `write_evaluation`; Parquet only, nothing is unpickled."""
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(data))
    columns = [name for name in frame.columns if name.startswith(PROBABILITY_PREFIX)]
    columns.sort(key=lambda name: int(name.removeprefix(PROBABILITY_PREFIX)))
    return EvaluationSet(
        features=frame[[name for name in frame.columns if not name.startswith(_OWN)]],
        label_true=frame[TRUE_COLUMN].to_numpy(),
        labels=frame[LABEL_COLUMN].to_numpy(),
        probabilities=frame[columns].to_numpy(dtype="float64") if columns else None,
        groups=frame[GROUP_COLUMN].to_numpy(),
        times=frame[TIME_COLUMN].to_numpy("datetime64[ns]") if TIME_COLUMN in frame else None,
        threshold=float(frame[THRESHOLD_COLUMN].iloc[0]) if THRESHOLD_COLUMN in frame else None,
    )
