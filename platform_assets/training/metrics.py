"""The metrics of a model; each knows which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import DEFAULT_QUANTILE, PINBALL, Evaluation, Task

_SMALLEST: Final = 2.0**-52
"""Probabilities are clipped to this in the log loss, which would be infinite otherwise."""


@dataclass(frozen=True)
class Answers:
    """True and predicted answers for the same rows.

    `label_true` and `labels`: shape (rows,). `probabilities`: shape (rows, classes), columns
    in the order of `classes`; None and () for a regression.
    """

    label_true: NDArray[Any]
    labels: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None
    classes: tuple[Any, ...] = ()

    def take(self, rows: NDArray[Any]) -> Answers:
        """Return the answers to the chosen rows: a mask, or positions."""
        stated = self.probabilities
        subset = Answers(
            self.label_true[rows],
            self.labels[rows],
            None if stated is None else stated[rows],
            self.classes,
        )
        # Intervals take hundreds of subsets of the same rows: look up each label once.
        for name in vars(self).keys() & {"true_codes", "predicted_codes"}:
            vars(subset)[name] = vars(self)[name][rows]
        return subset

    @cached_property
    def true_codes(self) -> NDArray[np.int64]:
        """Positions of the true labels among the classes, shape (rows,)."""
        return codes(self.label_true, self.classes)

    @cached_property
    def predicted_codes(self) -> NDArray[np.int64]:
        """Positions of the predicted labels among the classes, shape (rows,)."""
        return codes(self.labels, self.classes)


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of how good answers are."""

    name: str
    higher_is_better: bool
    compute: Callable[[Answers], float]
    """Returns NaN where the rows do not determine it, such as an AUC with one class."""
    largest_steps: Callable[[Answers], NDArray[np.float64]] | None = None
    """For counts of right answers: the change by one row of each class, shape (classes seen,)."""

    def of(self, answers: Answers, rows: NDArray[Any] | None) -> float:
        """Return the metric on chosen rows (a mask, or positions); None chooses all."""
        return self.compute(answers if rows is None else answers.take(rows))

    def resolution(self, answers: Answers) -> float:
        """Largest change by one row of each class, as the root of the sum of squares.

        0 for a metric of probabilities or numbers, which has no smallest step.
        """
        if self.largest_steps is None:
            return 0.0
        return float((self.largest_steps(answers) ** 2).sum() ** 0.5)

    def gain(self, new: float, old: float) -> float:
        """Return how much better `new` is than `old`; negative if it is worse."""
        return new - old if self.higher_is_better else old - new

    def meets(self, value: float, bound: float) -> bool:
        """Whether `value` is no worse than `bound`; a NaN never is."""
        return value >= bound if self.higher_is_better else value <= bound


def codes(labels: NDArray[Any] | Sequence[Any], classes: Sequence[Any]) -> NDArray[np.int64]:
    """Return the position of each label in `classes`, shape (rows,); -1 if it is not in them."""
    import pandas as pd

    if all(isinstance(class_, (bool, int)) for class_ in classes):
        known: pd.Index[Any] = pd.Index(
            np.array([int(class_) for class_ in classes], dtype=np.int64)
        )
        values = pd.Index(np.asarray(labels).astype(np.int64))
    else:
        known, values = pd.Index(list(classes), dtype=object), pd.Index(labels, dtype=object)
    return np.asarray(known.get_indexer(values), dtype=np.int64)


def _share_of_a_row(answers: Answers) -> NDArray[np.float64]:
    return np.array([1 / len(answers.label_true)])


def _shares_by_class(answers: Answers) -> NDArray[np.float64]:
    rows = np.unique(answers.true_codes, return_counts=True)[1]
    return 1 / (len(rows) * rows)


def _accuracy(answers: Answers) -> float:
    return float((answers.label_true == answers.labels).mean())


def _balanced_accuracy(answers: Answers) -> float:
    true, predicted = answers.true_codes, answers.predicted_codes
    return float(
        np.mean([(predicted[true == class_] == class_).mean() for class_ in np.unique(true)])
    )


def _f1_macro(answers: Answers) -> float:
    true, predicted = answers.true_codes, answers.predicted_codes
    scores = []
    for class_ in np.union1d(true, predicted):
        right = np.count_nonzero((true == class_) & (predicted == class_))
        scores.append(
            2 * right / (np.count_nonzero(true == class_) + np.count_nonzero(predicted == class_))
        )
    return float(np.mean(scores))


def _one_against_others(
    answers: Answers,
) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Return, by class, a mask of its rows and its probability; only the second class of two."""
    true, probabilities = answers.true_codes, _known(answers)
    columns = [1] if len(answers.classes) == 2 else range(len(answers.classes))
    return [(true == class_, probabilities[:, class_]) for class_ in columns]


def _roc_auc(answers: Answers) -> float:
    """One class against the rest, averaged over the classes with rows on both sides."""
    areas = [_area(*pair) for pair in _one_against_others(answers)]
    defined = [area for area in areas if not np.isnan(area)]
    return float(np.mean(defined)) if defined else float("nan")


def _area(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Share of pairs of a positive and a negative row that the score orders correctly."""
    ups, downs = score[positive], np.sort(score[~positive])
    if not len(ups) or not len(downs) or np.isnan(score).any():
        return float("nan")
    # Pairs of equal scores count half.
    below, upto = (np.searchsorted(downs, ups, side).sum() for side in ("left", "right"))
    return float((below + upto) / 2 / (len(ups) * len(downs)))


def _log_loss(answers: Answers) -> float:
    true, probabilities = answers.true_codes, _known(answers)
    # Single precision leaves row sums that are off by 1e-7.
    sums = np.maximum(probabilities.sum(axis=1), _SMALLEST)
    stated = probabilities[np.arange(len(true)), true] / sums
    return float(-np.log(np.clip(stated, _SMALLEST, 1)).mean())


def _average_precision(answers: Answers) -> float:
    """One class against the rest, averaged over the classes that have rows."""
    from sklearn.metrics import average_precision_score

    precisions = [
        average_precision_score(positive, stated)
        for positive, stated in _one_against_others(answers)
        if positive.any()
    ]
    return float(np.mean(precisions)) if precisions else float("nan")


def _brier(answers: Answers) -> float:
    from sklearn.metrics import brier_score_loss

    true, probabilities = answers.true_codes, _known(answers)
    # Single precision leaves row sums that are off by 1e-7, which scikit-learn warns about.
    stated = probabilities.astype(np.float64)
    stated /= np.maximum(stated.sum(axis=1, keepdims=True), _SMALLEST)
    if len(answers.classes) == 2:
        return float(brier_score_loss(true, stated[:, 1].clip(0, 1), labels=[0, 1], pos_label=1))
    return float(brier_score_loss(true, stated, labels=range(len(answers.classes))))


def _known(answers: Answers) -> NDArray[np.float64]:
    if answers.probabilities is None:
        raise ValueError("this metric needs probabilities")
    return answers.probabilities


def _r2(answers: Answers) -> float:
    spread = float(((answers.label_true - answers.label_true.mean()) ** 2).sum())
    rest = float(((answers.label_true - answers.labels) ** 2).sum())
    return 1 - rest / spread if spread > 0 else float("nan")


def _mean_absolute_error(answers: Answers) -> float:
    return float(abs(answers.label_true - answers.labels).mean())


def _root_mean_squared_error(answers: Answers) -> float:
    return float(((answers.label_true - answers.labels) ** 2).mean() ** 0.5)


def _mean_absolute_percentage_error(answers: Answers) -> float:
    """As a fraction, 0.1 for a tenth. Undetermined if a true value is 0."""
    from sklearn.metrics import mean_absolute_percentage_error

    if (answers.label_true == 0).any():
        return float("nan")
    return float(mean_absolute_percentage_error(answers.label_true, answers.labels))


def _pinball(answers: Answers, quantile: float) -> float:
    from sklearn.metrics import mean_pinball_loss

    return float(mean_pinball_loss(answers.label_true, answers.labels, alpha=quantile))


CLASSIFICATION: Final = (
    Metric("accuracy", True, _accuracy, _share_of_a_row),
    Metric("balanced_accuracy", True, _balanced_accuracy, _shares_by_class),
    Metric("f1_macro", True, _f1_macro, _shares_by_class),
    Metric("roc_auc", True, _roc_auc),
    Metric("average_precision", True, _average_precision),
    Metric("brier", False, _brier),
    Metric("log_loss", False, _log_loss),
)
REGRESSION: Final = (
    Metric("r2", True, _r2),
    Metric("mean_absolute_error", False, _mean_absolute_error),
    Metric("mean_absolute_percentage_error", False, _mean_absolute_percentage_error),
    Metric(PINBALL, False, partial(_pinball, quantile=DEFAULT_QUANTILE)),
    Metric("root_mean_squared_error", False, _root_mean_squared_error),
)
METRICS: Final = {metric.name: metric for metric in CLASSIFICATION + REGRESSION}
"""By name; `chosen_metric` and `metrics_of` set the quantile that a model asks for."""


def chosen_metric(evaluation: Evaluation) -> Metric:
    """Return the metric by which candidates are compared and the gates judge."""
    return _at_quantile(METRICS[evaluation.metric], evaluation)


def metrics_of(task: Task, evaluation: Evaluation | None = None) -> tuple[Metric, ...]:
    """Return the metrics of a task; the last one breaks ties between candidates.

    The pinball loss is that of the quantile of `evaluation`; without one, of the median.
    """
    metrics = REGRESSION if task is Task.REGRESSION else CLASSIFICATION
    return (
        metrics
        if evaluation is None
        else tuple(_at_quantile(metric, evaluation) for metric in metrics)
    )


def _at_quantile(metric: Metric, evaluation: Evaluation) -> Metric:
    if metric.name != PINBALL or evaluation.quantile is None:
        return metric
    return replace(metric, compute=partial(_pinball, quantile=evaluation.quantile))


def scores(task: Task, answers: Answers, evaluation: Evaluation | None = None) -> dict[str, float]:
    """Return every metric of the task for these answers."""
    return {metric.name: metric.compute(answers) for metric in metrics_of(task, evaluation)}
