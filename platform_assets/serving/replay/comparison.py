"""Answers of two versions for the same logged rows, brought to one form: pure."""

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
"""Of probabilities: that of a class which hardly ever occurs would make anything a great shift."""

_CONSTANT: Final = 1e-9
"""Spread, relative to the values, below which predictions differ by rounding alone."""


@dataclass(frozen=True, slots=True)
class ComparedAnswers:
    """The rows that both versions answered with finite numbers.

    `scores` and `production_scores`, shape (rows, scores), are probabilities by class (of two
    classes the second's), or predictions of a regression; `names` says which is which. `spread`,
    shape (scores,), is what one unit of a shift is.
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
        """Rows with another label, shape (rows,); of a regression none."""
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
    kinds = [{type(label) for label in one.classes} for one in (old, new)]
    return "" if kinds[0] == kinds[1] else "production answers labels of another type"


def pair(
    new: Signature,
    old: Signature,
    candidate: VersionAnswers,
    production: VersionAnswers,
    held_out: NDArray[np.float64],
) -> ComparedAnswers:
    """Bring the answers to the candidate's classes, and leave out what either did not answer.

    `held_out` are the candidate's scores for its held-out rows, by `prediction_scores`.
    """
    is_regression = not new.classes
    scores = prediction_scores(candidate.labels, candidate.probabilities, new.classes)
    other = prediction_scores(production.labels, production.probabilities, old.classes)
    if not is_regression:
        other = align_probabilities(new.classes, other, old.classes)
    names = tuple(f"probability of {label}" for label in new.classes) or ("prediction",)
    spread = _spread(held_out, is_regression=is_regression)
    if len(new.classes) == 2:  # the first one's is the complement
        scores, other, spread, names = scores[:, 1:], other[:, 1:], spread[1:], names[1:]
    is_kept = candidate.is_answered & production.is_answered
    is_kept &= np.isfinite(scores).all(axis=1) & np.isfinite(other).all(axis=1)
    rows = np.flatnonzero(is_kept)
    return ComparedAnswers(
        rows,
        candidate.labels[rows],
        production.labels[rows],
        scores[rows],
        other[rows],
        spread,
        names,
        is_regression,
    )


def non_finite_rows(answers: VersionAnswers, signature: Signature) -> NDArray[np.int64]:
    """Return the rows that were answered with a number that is not finite."""
    numbers = prediction_scores(answers.labels, answers.probabilities, signature.classes)
    return np.flatnonzero(answers.is_answered & ~np.isfinite(numbers).all(axis=1))


def prediction_scores(
    labels: NDArray[Any], probabilities: NDArray[np.float64] | None, classes: tuple[Label, ...]
) -> NDArray[np.float64]:
    """Return the numbers to compare, shape (rows, scores): probabilities, or predictions.

    Of a classifier without probabilities 1 for the class that is answered and 0 for the others.
    A prediction that was not answered is NaN.
    """
    if probabilities is not None:
        return probabilities
    if not classes:
        return np.array([np.nan if one is None else one for one in labels], np.float64)[:, None]
    return np.array([[label == one for one in classes] for label in labels], np.float64)


def _spread(held_out: NDArray[np.float64], *, is_regression: bool) -> NDArray[np.float64]:
    """The standard deviation by score; of predictions that all are the same their size, or 1."""
    finite = held_out[np.isfinite(held_out).all(axis=1)]
    if not len(finite):
        return np.ones(held_out.shape[1])
    spread: NDArray[np.float64] = finite.std(axis=0)
    if not is_regression:
        return np.maximum(spread, LEAST_SPREAD)
    size = np.abs(finite).max(axis=0)
    constant = np.where(size > 0, size, 1.0)
    return np.asarray(np.where(spread > _CONSTANT * size, spread, constant), np.float64)
