"""Two versions' answers to the same logged rows, brought into one form, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import Label
from platform_assets.serving.compatibility import align_probabilities
from platform_assets.serving.replay.asking import VersionAnswers
from serving_gateway.contract import Signature

LEAST_SPREAD: Final = 0.1
"""Least spread of a probability: that of a very rare class would make any shift look large."""

_CONSTANT: Final = 1e-9
"""Spread, relative to the values, below which predictions differ by rounding alone."""


@dataclass(frozen=True, slots=True)
class ComparedAnswers:
    """The rows that both versions answered with finite numbers.

    `scores` and `production_scores`, shape (rows, scores), are probabilities by class (with two
    classes, the second's alone) or predictions of a regression; `names` labels their columns.
    `spread`, shape (scores,), is the unit of a shift.
    """

    rows: NDArray[np.int64]
    """Positions among all rows, ascending."""
    labels: NDArray[Any]
    production_labels: NDArray[Any]
    scores: NDArray[np.float64]
    production_scores: NDArray[np.float64]
    spread: NDArray[np.float64]
    names: tuple[str, ...]
    is_regression: bool

    @property
    def is_relabelled(self) -> NDArray[np.bool_]:
        """Which rows have another label, shape (rows,); none for a regression."""
        if self.is_regression:
            return np.zeros(len(self.rows), dtype=np.bool_)
        return np.asarray(self.labels != self.production_labels, dtype=np.bool_)

    @property
    def shifts(self) -> NDArray[np.float64]:
        """The candidate's scores minus production's in units of `spread`, shape (rows, scores)."""
        return (self.scores - self.production_scores) / self.spread


def answers_obstacle(old: Signature, new: Signature) -> str:
    """Say why answers of `old` and `new` are not comparable; "" when they are."""
    if bool(old.classes) != bool(new.classes):
        return f"production is a {'classifier' if old.classes else 'regression'}"
    kinds = [{type(label) for label in signature.classes} for signature in (old, new)]
    return "" if kinds[0] == kinds[1] else "production answers labels of another type"


def pair(
    new: Signature,
    old: Signature,
    candidate: VersionAnswers,
    production: VersionAnswers,
    held_out: NDArray[np.float64],
) -> ComparedAnswers:
    """Align the answers with the candidate's classes; rows unanswered by either are left out.

    `held_out` are the candidate's scores for its held-out rows, by `prediction_scores`.
    """
    is_regression = not new.classes
    scores = prediction_scores(candidate.labels, candidate.probabilities, new.classes)
    old_scores = prediction_scores(production.labels, production.probabilities, old.classes)
    if not is_regression:
        old_scores = align_probabilities(new.classes, old_scores, old.classes)
    names = tuple(f"probability of {label}" for label in new.classes) or ("prediction",)
    spread = _spread(held_out, is_regression=is_regression)
    if len(new.classes) == 2:  # the first one's is the complement
        scores, old_scores, spread, names = scores[:, 1:], old_scores[:, 1:], spread[1:], names[1:]
    is_kept = candidate.is_answered & production.is_answered
    is_kept &= np.isfinite(scores).all(axis=1) & np.isfinite(old_scores).all(axis=1)
    rows = np.flatnonzero(is_kept)
    return ComparedAnswers(
        rows,
        candidate.labels[rows],
        production.labels[rows],
        scores[rows],
        old_scores[rows],
        spread,
        names,
        is_regression,
    )


def non_finite_rows(answers: VersionAnswers, signature: Signature) -> NDArray[np.int64]:
    """Return the rows whose answer holds a number that is not finite."""
    numbers = prediction_scores(answers.labels, answers.probabilities, signature.classes)
    return np.flatnonzero(answers.is_answered & ~np.isfinite(numbers).all(axis=1))


def prediction_scores(
    labels: NDArray[Any], probabilities: NDArray[np.float64] | None, classes: tuple[Label, ...]
) -> NDArray[np.float64]:
    """Return the numbers to compare, shape (rows, scores): probabilities, or predictions.

    A classifier without probabilities scores 1 for the predicted class and 0 for the others. A
    missing prediction is NaN.
    """
    if probabilities is not None:
        return probabilities
    if not classes:
        return np.array([np.nan if label is None else label for label in labels], np.float64)[
            :, None
        ]
    return np.array([[label == class_ for class_ in classes] for label in labels], np.float64)


def _spread(held_out: NDArray[np.float64], *, is_regression: bool) -> NDArray[np.float64]:
    """Return the standard deviation by score; for constant predictions their size, or 1."""
    finite = held_out[np.isfinite(held_out).all(axis=1)]
    if not len(finite):
        return np.ones(held_out.shape[1])
    spread: NDArray[np.float64] = finite.std(axis=0)
    if not is_regression:
        return np.maximum(spread, LEAST_SPREAD)
    size = np.abs(finite).max(axis=0)
    constant = np.where(size > 0, size, 1.0)
    return np.asarray(np.where(spread > _CONSTANT * size, spread, constant), np.float64)
