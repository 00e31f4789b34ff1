"""How probabilities become answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.fields import CONFIG, Share


class Calibration(StrEnum):
    """How probabilities are corrected after an estimator was fitted."""

    SIGMOID = "sigmoid"
    ISOTONIC = "isotonic"


class ThresholdMetric(StrEnum):
    """What a threshold may be the best for."""

    F1 = "f1"
    BALANCED_ACCURACY = "balanced_accuracy"


@dataclass(frozen=True, config=CONFIG)
class Threshold:
    """From which probability on the second class is answered; exactly one rule.

    A threshold is chosen by what models answer for rows of folds that they did not learn from.
    """

    maximize: ThresholdMetric | None = None
    """The threshold with the best f1 of the second class, or the best balanced_accuracy."""
    precision_at_least: Share | None = None
    """The threshold that finds most rows of the second class with at least this share of right
    ones among the rows that it answers with that class."""
    recall_at_least: Share | None = None
    """The threshold with the highest precision that finds at least this share of the rows of the
    second class."""

    @model_validator(mode="after")
    def _check_rule(self) -> Self:
        if [self.maximize, self.precision_at_least, self.recall_at_least].count(None) != 2:
            raise ValueError(
                "needs exactly one of `maximize`, `precision_at_least` and `recall_at_least`"
            )
        return self
