"""Results of batch scoring: where the predictions are, and a sample to check them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from platform_assets.resources.records import RegisteredVersion

# Names of keys and features cannot begin like this: model files refuse them.
ROW: Final = "prediction_row"
"""Number of a row in its file, from 1."""
AS_OF: Final = "prediction_features_as_of"
"""Time of the oldest stored value of a row; null if values have no time."""
PREDICTION: Final = "prediction"
PROBABILITY: Final = "probability_"
"""Prefix of the columns with the probability of each class."""
REASON: Final = "prediction_reason"
"""Why a row has no prediction; null if it has one."""
VERSION: Final = "prediction_version"
RUN_ID: Final = "prediction_run_id"
SCORED_AT: Final = "prediction_time"
"""When the scoring began, the time relative to which values expire."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row as a client would send it, in signature order, and Triton's answer.

    `entity` has the row's keys in the online store, and `request` what a client sends beside
    them; both are empty for a row that is completely in a file.
    """

    values: tuple[Any, ...]
    prediction: Any
    probabilities: tuple[float, ...]
    entity: Mapping[str, int | str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchPredictions:
    """A file of predictions, all of one version.

    `reasons` counts the rows without a prediction by reason.
    """

    path: str
    version: RegisteredVersion
    rows: int
    reasons: Mapping[str, int]
    sample: tuple[SampledRow, ...]

    @property
    def unscored(self) -> int:
        """Number of rows without a prediction."""
        return sum(self.reasons.values())
