"""What batch scoring hands on: where the predictions are, and a sample to check them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from platform_assets.resources.records import RegisteredVersion

# Keys and features have no names that begin so: model files refuse them.
ROW: Final = "prediction_row"
"""Number of a row in its file, from 1."""
AS_OF: Final = "prediction_features_as_of"
"""Time of the oldest stored value of a row; null where values have no time."""
PREDICTION: Final = "prediction"
PROBABILITY: Final = "probability_"
"""Begins the columns with the probability of each class."""
REASON: Final = "prediction_reason"
"""Why a row has no prediction; null for one that has."""
VERSION: Final = "prediction_version"
RUN_ID: Final = "prediction_run_id"
SCORED_AT: Final = "prediction_time"
"""When the scoring began, which is the time at which values are expired or not."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """A row as a client writes it, in signature order, and what Triton answered.

    `entity` has the keys by which the online store has the row, and `request` what a client sends
    beside them; both are empty for a row that is in a file as a whole.
    """

    values: tuple[Any, ...]
    prediction: Any
    probabilities: tuple[float, ...]
    entity: Mapping[str, int | str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchPredictions:
    """A file of predictions, all of one version.

    `reasons` counts the rows without a prediction by why they have none.
    """

    path: str
    version: RegisteredVersion
    rows: int
    reasons: Mapping[str, int]
    sample: tuple[SampledRow, ...]

    @property
    def unscored(self) -> int:
        """How many rows have no prediction."""
        return sum(self.reasons.values())
