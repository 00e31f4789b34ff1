"""Split, cross-validate, fit, evaluate: no I/O, the same answer for the same rows and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from platform_assets.features.spec import TrainingSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCORES = ("accuracy", "f1_macro", "neg_log_loss")


class TrainingError(Exception):
    """The rows do not allow a model to be chosen; the message says why."""


@dataclass(frozen=True)
class Rows:
    """Training or evaluation rows.

    `values`: shape (rows, features), float32, columns in signature order; `labels` and
    `groups` (the entity of each row): shape (rows,), int64.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_]) -> Rows:
        """Return the rows where `chosen`, shape (rows,), is true."""
        return Rows(self.values[chosen], self.labels[chosen], self.groups[chosen])


@dataclass(frozen=True)
class Evaluated:
    """What an estimator answers for the evaluation rows, and how good that is.

    `labels`: shape (rows,), int64; `probabilities`: shape (rows, classes), float64.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    metrics: dict[str, float]


def fold_of_rows(rows: Rows, folds: int, seed: int) -> NDArray[np.int64]:
    """Deal the entities of each class to `folds` folds, as evenly as they go.

    All rows of an entity share a fold, so no entity is learned from and tested on at once,
    and every fold has every class that has at least `folds` entities.

    Returns:
        The fold of each row, shape (rows,), 0..folds-1.
    """
    import numpy as np

    entities, first = np.unique(rows.groups, return_index=True)
    label_of = rows.labels[first]
    shuffled = np.random.default_rng(seed).permutation(len(entities))
    # By class, in shuffled order within the class; then dealt like cards.
    order = shuffled[np.argsort(label_of[shuffled], kind="stable")]
    fold = np.empty(len(entities), dtype=np.int64)
    for label in np.unique(label_of):
        members = order[label_of[order] == label]
        fold[members] = np.arange(len(members)) % folds
    return fold[np.searchsorted(entities, rows.groups)]


def split_evaluation(rows: Rows, spec: TrainingSpec) -> tuple[Rows, Rows]:
    """Return (training rows, evaluation rows); no entity is in both, every class in each.

    Raises:
        TrainingError: a class has too few entities for that.
    """
    held_out = fold_of_rows(rows, max(2, round(1 / spec.evaluation_fraction)), spec.seed) == 0
    training, evaluation = rows.take(~held_out), rows.take(held_out)
    fewest = _fewest_entities(training)
    if fewest < 2 or set(training.labels.tolist()) != set(evaluation.labels.tolist()):
        raise TrainingError(
            f"a class has only {fewest} different entities left for training after the "
            "evaluation rows were held out"
        )
    return training, evaluation


def cross_validate(estimator: Any, rows: Rows, spec: TrainingSpec) -> dict[str, float]:
    """Return mean and standard deviation of each of `SCORES` over the folds, and their number.

    Raises:
        TrainingError: the estimator cannot be fitted to these rows.
    """
    from sklearn.model_selection import PredefinedSplit
    from sklearn.model_selection import cross_validate as sklearn_cross_validate
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no stubs

    folds = min(spec.folds, _fewest_entities(rows))
    split = PredefinedSplit(fold_of_rows(rows, folds, spec.seed + 1))
    try:
        with threadpool_limits(limits=spec.threads):
            scores = sklearn_cross_validate(
                estimator,
                rows.values,
                rows.labels,
                cv=split,
                scoring=list(SCORES),
                n_jobs=1,
                error_score="raise",
            )
    except (ValueError, ArithmeticError) as exc:
        raise TrainingError(f"{type(estimator).__name__} cannot be fitted: {exc}") from exc
    result: dict[str, float] = {"cv_folds": float(folds)}
    for name in SCORES:
        values = scores[f"test_{name}"]
        result[f"cv_{name}"] = float(values.mean())
        result[f"cv_{name}_std"] = float(values.std())
    return result


def best_candidate(results: Mapping[str, Mapping[str, float]], metric: str) -> str:
    """Return the name with the best mean `metric`; a tie goes to the better log loss."""
    return max(results, key=lambda name: _merit(results[name], metric))


def _merit(result: Mapping[str, float], metric: str) -> tuple[float, float]:
    # Means of floats: what differs beyond the ninth digit is a tie.
    return round(result[f"cv_{metric}"], 9), result["cv_neg_log_loss"]


def fit(estimator: Any, rows: Rows, spec: TrainingSpec) -> Any:
    """Fit and return the estimator."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=spec.threads):
        return estimator.fit(rows.values, rows.labels)


def evaluate(estimator: Any, rows: Rows) -> Evaluated:
    """Return the answers and metrics of a fitted classifier on held-out rows."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    labels = np.asarray(estimator.predict(rows.values), dtype=np.int64)
    probabilities = np.asarray(estimator.predict_proba(rows.values), dtype=np.float64)
    # Single precision leaves row sums that are off by 1e-7, which log_loss warns about.
    normal = probabilities / probabilities.sum(axis=1, keepdims=True)
    return Evaluated(
        labels=labels,
        probabilities=probabilities,
        metrics={
            "accuracy": float(accuracy_score(rows.labels, labels)),
            "f1_macro": float(f1_score(rows.labels, labels, average="macro")),
            "log_loss": float(log_loss(rows.labels, normal, labels=estimator.classes_)),
        },
    )


def _fewest_entities(rows: Rows) -> int:
    import numpy as np

    pairs = np.unique(np.stack([rows.labels, rows.groups]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].min())
