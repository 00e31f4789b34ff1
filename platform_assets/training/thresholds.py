"""The probability from which the second of two classes is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import Label, Threshold, ThresholdMetric
from platform_assets.training.metrics import Answers, codes
from platform_assets.training.rows import TrainingError


def choose_threshold(rule: Threshold, folds: Sequence[Answers]) -> float:
    """Return the threshold that a rule chooses from the answers to rows not learned from.

    It lies halfway between two probabilities that occur, so that rounding decides no row.

    Raises:
        TrainingError: the rows are of one class, or no threshold satisfies the rule.
    """
    from sklearn.metrics import roc_curve

    positive = np.concatenate([codes(fold.label_true, fold.classes) == 1 for fold in folds])
    stated = np.concatenate([np.asarray(fold.probabilities)[:, 1] for fold in folds])
    if positive.all() or not positive.any():
        raise TrainingError("the folds test rows of one class only: no threshold can be chosen")
    # Without the first point, whose threshold no probability reaches.
    wrong, recall, reached = (
        part[1:] for part in roc_curve(positive, stated, drop_intermediate=False)
    )
    right, mistaken = recall * positive.sum(), wrong * (~positive).sum()
    precision = right / (right + mistaken)
    allowed, merits = _merits(rule, precision, recall, wrong)
    if not allowed.any():
        raise TrainingError(
            f"no threshold reaches a precision of {rule.precision_at_least:g} on the folds; the "
            f"highest is {precision.max():.4g}: lower threshold.precision_at_least"
        )
    places = np.flatnonzero(allowed)
    best = int(places[np.lexsort([fold[allowed] for fold in reversed(merits)])[-1]])
    below = reached[best + 1] if best + 1 < len(reached) else 0.0
    return float((reached[best] + below) / 2)


def _merits(
    rule: Threshold,
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    wrong: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Return which thresholds are allowed, and their criteria, the most important first."""
    if rule.precision_at_least is not None:
        return precision >= rule.precision_at_least, [recall, precision]
    if rule.recall_at_least is not None:
        return recall >= rule.recall_at_least, [precision, recall]
    if rule.maximize is ThresholdMetric.F1:
        merit = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    else:
        merit = (recall + 1 - wrong) / 2
    return np.ones(len(merit), dtype=np.bool_), [merit, precision]


def apply_threshold(answers: Answers, threshold: float) -> Answers:
    """Return answers with labels by a threshold on the second class's probability."""
    plain = [int(class_) if isinstance(class_, bool) else class_ for class_ in answers.classes]
    labels = np.array(plain, dtype=answers.labels.dtype)
    reached = np.asarray(answers.probabilities)[:, 1] >= threshold
    return replace(answers, labels=labels[reached.astype(np.int64)])


def with_threshold(pipeline: Any, threshold: float, classes: Sequence[Label]) -> Any:
    """Return a fitted pipeline that answers by a threshold, with unchanged probabilities."""
    from sklearn.frozen import FrozenEstimator
    from sklearn.model_selection import FixedThresholdClassifier
    from sklearn.pipeline import Pipeline

    positive, (name, fitted) = classes[1], pipeline.steps[-1]
    model = FixedThresholdClassifier(
        FrozenEstimator(fitted),
        threshold=threshold,
        pos_label=int(positive) if isinstance(positive, bool) else positive,
        response_method="predict_proba",
    )
    # It is frozen, so fit ignores the rows.
    model.fit(np.zeros((2, 1)), np.array([*classes]))
    return Pipeline([*pipeline.steps[:-1], (name, model)])
