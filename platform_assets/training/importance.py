"""How much worse a model gets when one of its columns is shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.export.custom_step import is_custom
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.preprocessing import COLUMNS_STEP, MODEL_STEP
from platform_assets.training.rows import Rows
from platform_assets.training.selection import answers_of

_Shuffle = Callable[[NDArray[np.int64]], Any]

MAX_ROWS: Final = 2000
_FEWEST_OF_A_CLASS: Final = 20
_REPEATS: Final = 3


@dataclass(frozen=True, slots=True)
class Importance:
    """Loss in the metric from shuffling one feature: mean and spread over the repeats."""

    feature: str
    mean: float
    spread: float


def permutation_importance(
    pipeline: Any, rows: Rows, spec: ModelSpec, classes: Sequence[Label]
) -> list[Importance]:
    """Return the importance of each feature to the metric, most important first.

    At most about `MAX_ROWS` of the rows are used, evenly spread, a few of each class at least; the
    same ones each time. The rows are
    preprocessed once and shuffled afterwards, since preprocessing thousands of columns is slow. A
    user's pipeline preprocesses the shuffled rows itself.
    """
    sample = rows.take(_sample_places(rows, spec))
    metric = chosen_metric(spec.evaluation)
    model, table, shuffled = _shuffle_setup(pipeline, sample)

    def score(features: Any) -> float:
        answers = answers_of(model, Rows(features, sample.labels, sample.groups), spec, classes)
        return metric.gain(metric.compute(answers), 0.0)

    chance = np.random.default_rng(spec.evaluation.seed)
    orders = [chance.permutation(len(sample)) for _ in range(_REPEATS)]
    whole = score(table)
    measured = []
    for feature, shuffle in shuffled.items():
        losses = [whole - score(shuffle(order)) for order in orders]
        measured.append(Importance(feature, float(np.mean(losses)), float(np.std(losses))))
    return sorted(measured, key=lambda importance: (-importance.mean, importance.feature))


def _sample_places(rows: Rows, spec: ModelSpec) -> NDArray[np.int64]:
    """Return the positions of the rows to use, in order."""
    step = -(-len(rows) // MAX_ROWS)
    if spec.task is Task.REGRESSION:
        return np.arange(0, len(rows), step)
    _, code = np.unique(rows.labels, return_inverse=True)
    chosen = []
    for places in (np.flatnonzero(code == one) for one in range(int(code.max()) + 1)):
        own = max(1, min(step, len(places) // _FEWEST_OF_A_CLASS))
        chosen.append(places[::own])
    return np.sort(np.concatenate(chosen))


def _shuffle_setup(pipeline: Any, sample: Rows) -> tuple[Any, Any, dict[str, _Shuffle]]:
    """Return a model, its input, and by feature a function that shuffles that input."""
    from scipy.sparse import issparse

    if is_custom(pipeline):
        frame = sample.features

        def within(name: str) -> _Shuffle:
            return lambda order: frame.assign(**{name: frame[name].to_numpy()[order]})

        return pipeline, frame, {str(name): within(str(name)) for name in frame.columns}
    prepared, model = pipeline.named_steps[COLUMNS_STEP], pipeline.named_steps[MODEL_STEP]
    matrix = prepared.transform(sample.features)
    matrix = matrix.tocsc() if issparse(matrix) else matrix
    places = _places(prepared)
    return (
        model,
        matrix,
        {name: partial(_shuffle_columns, matrix, at) for name, at in places.items()},
    )


def _places(prepared: Any) -> dict[str, slice]:
    """Return the columns of the preprocessed matrix by feature."""
    places = {}
    for name, steps, features in prepared.transformers_:
        start = prepared.output_indices_[name].start
        for feature, width in zip(features, _widths(steps[0], len(features)), strict=True):
            places[str(feature)] = slice(start, start + width)
            start += width
    return places


def _widths(first_step: Any, features: int) -> list[int]:
    from sklearn.preprocessing import OneHotEncoder, TargetEncoder

    if isinstance(first_step, TargetEncoder):
        return [len(first_step.encodings_) // features] * features
    if isinstance(first_step, OneHotEncoder):
        counts = [len(categories) for categories in first_step.categories_]
        if first_step.min_frequency is None and first_step.max_categories is None:
            return counts
        rare = [
            0 if infrequent is None else len(infrequent) - 1
            for infrequent in first_step.infrequent_categories_
        ]
        return [count - less for count, less in zip(counts, rare, strict=True)]
    return [1] * features


def _shuffle_columns(matrix: Any, places: slice, order: NDArray[np.int64]) -> Any:
    from scipy.sparse import hstack, issparse

    if issparse(matrix):
        before, after = matrix[:, : places.start], matrix[:, places.stop :]
        return hstack([before, matrix[:, places][order], after], format="csr")
    shuffled = matrix.copy()
    shuffled[:, places] = matrix[order, places]
    return shuffled
