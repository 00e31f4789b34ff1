"""How much worse a model gets when one of its columns is shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from platform_assets.model_spec import Label, ModelSpec
from platform_assets.training.metrics import METRICS
from platform_assets.training.rows import Rows
from platform_assets.training.selection import answers_of

MAX_ROWS: Final = 2000
_REPEATS: Final = 3


@dataclass(frozen=True, slots=True)
class Importance:
    """Loss of the metric by shuffling one feature: mean and spread over the repeats."""

    feature: str
    mean: float
    spread: float


def permutation_importance(
    pipeline: Any, rows: Rows, spec: ModelSpec, classes: Sequence[Label]
) -> list[Importance]:
    """Return the features with what they matter to the metric, most important first.

    At most `MAX_ROWS` of the rows are used, evenly spread; the same ones each time.
    """
    from sklearn import inspection

    sample = rows.take(np.arange(0, len(rows), -(-len(rows) // MAX_ROWS)))
    metric = METRICS[spec.evaluation.metric]

    def score(fitted: Any, features: Any, labels: Any) -> float:
        answers = answers_of(fitted, Rows(features, labels, sample.groups), spec, classes)
        return metric.gain(metric.compute(answers), 0.0)

    result = inspection.permutation_importance(
        pipeline,
        sample.features,
        sample.labels,
        scoring=score,
        n_repeats=_REPEATS,
        random_state=spec.evaluation.seed,
    )
    measured = map(
        Importance,
        sample.features.columns,
        result.importances_mean.tolist(),
        result.importances_std.tolist(),
    )
    return sorted(measured, key=lambda one: (-one.mean, one.feature))
