"""How much worse a model gets when one of its columns is shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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
    import numpy as np

    step = -(-len(rows) // MAX_ROWS)
    sample = rows.take(np.arange(0, len(rows), step))
    metric = METRICS[spec.evaluation.metric]
    base = metric.compute(answers_of(pipeline, sample, spec, classes))
    rng = np.random.default_rng(spec.evaluation.seed)
    found = []
    for name in spec.feature_names:
        losses = []
        for _ in range(_REPEATS):
            shuffled = sample.features[name].to_numpy()[rng.permutation(len(sample))]
            changed = Rows(sample.features.assign(**{name: shuffled}), sample.labels, sample.groups)
            value = metric.compute(answers_of(pipeline, changed, spec, classes))
            losses.append(metric.gain(base, value))
        found.append(Importance(name, float(np.mean(losses)), float(np.std(losses))))
    return sorted(found, key=lambda one: (-one.mean, one.feature))
