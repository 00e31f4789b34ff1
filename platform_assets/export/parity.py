"""Compare a runtime's answers with those of the training library, row by row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from platform_assets.export.runtime import ModelAnswers
    from platform_assets.resources.records import EvaluationSet

PROBABILITY_TOLERANCE: Final = 1e-4
"""Largest allowed difference of a probability, and of a prediction relative to their spread."""
_CONSTANT: Final = 1e-9
"""Spread, relative to the values, below which predictions differ by rounding alone."""

_ROWS_SHOWN: Final = 10
_ROWS_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Parity:
    """The result of a comparison over the whole evaluation set."""

    rows: int
    label_mismatches: int
    """Rows with a different label; in a regression, with a prediction beyond the tolerance."""
    rows_tied: int
    """Rows whose label is not compared, since rounding decides it: their two likeliest classes
    differ by no more than the tolerance, or the probability is that close to the threshold. Their
    probabilities are compared."""
    largest_probability_difference: float
    """0.0 when the model has no probabilities."""
    largest_prediction_difference: float
    """For a regression, relative to the spread of the expected values; else 0.0."""
    tolerance: float
    differing_rows: tuple[int, ...]
    """Positions of the first rows that differ, ascending, at most a thousand."""

    @property
    def holds(self) -> bool:
        """Whether all answers are equal, numbers within the tolerance."""
        return (
            self.rows > 0
            and self.label_mismatches == 0
            and self.largest_probability_difference <= self.tolerance
        )

    def metadata(self) -> dict[str, int | float | str]:
        """Return the numbers for a Dagster check."""
        shown = ", ".join(map(str, self.differing_rows[:_ROWS_SHOWN]))
        return {**asdict(self), "differing_rows": shown or "none"}


def compare_with(evaluation: EvaluationSet, answers: ModelAnswers, tolerance: float) -> Parity:
    """Compare answers for an evaluation set with those of scikit-learn, as `compare` does."""
    return compare(
        *answers,
        evaluation.labels,
        evaluation.probabilities,
        tolerance,
        threshold=evaluation.threshold,
    )


def compare(
    labels: np.ndarray[Any, Any],
    probabilities: np.ndarray[Any, Any] | None,
    expected_labels: np.ndarray[Any, Any],
    expected_probabilities: np.ndarray[Any, Any] | None,
    tolerance: float = PROBABILITY_TOLERANCE,
    threshold: float | None = None,
) -> Parity:
    """Compare answers with those of the training library.

    Args:
        labels: [n] or [n, 1] predicted labels (bytes count as UTF-8 text, 0 and 1 as booleans),
            or predictions of a regression, which are floating point.
        probabilities: [n, classes], or None for a model without them.
        expected_labels: [n].
        expected_probabilities: as `probabilities`.
        tolerance: largest allowed difference of a probability (absolute) or of a prediction
            (relative to the standard deviation of the expected ones; where all are equal, to
            their size).
        threshold: probability from which the second of two classes is answered; None where the
            likeliest class is.

    Raises:
        ValueError: the number of rows or classes differs from what is expected, or only one side
            has probabilities.
    """
    answered = _plain(labels.reshape(-1))
    if answered.shape != expected_labels.shape:
        raise ValueError(f"{answered.shape[0]} answers for {expected_labels.shape[0]} rows")
    if (probabilities is None) != (expected_probabilities is None):
        raise ValueError("only one side has probabilities")
    off, tied = np.zeros(len(answered)), np.zeros(len(answered), dtype=bool)
    if expected_labels.dtype.kind == "f":
        off = _distance(answered, expected_labels) / _spread(expected_labels)
        label_differs = off > tolerance
    else:
        label_differs = np.asarray(answered != expected_labels, dtype=bool)
    differs = label_differs
    largest = 0.0
    if probabilities is not None and expected_probabilities is not None:
        if probabilities.shape != expected_probabilities.shape:
            raise ValueError(
                f"probabilities {probabilities.shape}, expected {expected_probabilities.shape}"
            )
        distance = _distance(probabilities, expected_probabilities)
        largest = float(distance.max(initial=0.0))
        tied = _ties(expected_probabilities, tolerance, threshold)
        label_differs &= ~tied
        differs = label_differs | (distance.max(axis=1, initial=0.0) > tolerance)
    return Parity(
        rows=len(answered),
        label_mismatches=int(label_differs.sum()),
        rows_tied=int(tied.sum()),
        largest_probability_difference=largest,
        tolerance=tolerance,
        differing_rows=tuple(int(row) for row in np.flatnonzero(differs)[:_ROWS_KEPT]),
        largest_prediction_difference=float(off.max(initial=0.0)),
    )


def _ties(
    expected: np.ndarray[Any, Any], tolerance: float, threshold: float | None
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    if threshold is not None:
        return np.asarray(np.abs(expected[:, 1] - threshold) <= tolerance, dtype=np.bool_)
    likeliest = np.sort(expected, axis=1)[:, -2:]
    return np.asarray(likeliest[:, -1] - likeliest[:, 0] <= tolerance, dtype=np.bool_)


def _spread(expected: np.ndarray[Any, Any]) -> float:
    largest = float(np.abs(expected).max(initial=0.0))
    spread = float(np.std(expected)) if len(expected) else 0.0
    return spread if spread > _CONSTANT * largest else largest or 1.0


def _plain(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if labels.dtype.kind == "S" or (len(labels) and isinstance(labels[0], bytes)):
        return np.array([text.decode() for text in labels.tolist()], dtype=object)
    return labels


def _distance(
    answered: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    # A NaN must not slip through a comparison: it counts as infinitely far away.
    with np.errstate(invalid="ignore"):
        distance = np.abs(answered.astype(np.float64) - expected)
    return np.where(np.isnan(distance), np.inf, distance)


def differing_frame(
    parity: Parity,
    evaluation: EvaluationSet,
    labels: np.ndarray[Any, Any],
    probabilities: np.ndarray[Any, Any] | None,
) -> pd.DataFrame:
    """Return the rows that differ according to `parity`, the result of `compare`.

    Each has `row` (position in the evaluation set), `entity`, the features, `expected` and
    `answered`, and `expected_probability_<i>` and `answered_probability_<i>` of each class.
    """
    import pandas as pd

    rows = np.array(parity.differing_rows, dtype=np.int64)
    columns: dict[str, Any] = {
        "row": rows,
        "entity": evaluation.groups[rows],
        **{f"feature.{name}": evaluation.features[name].to_numpy()[rows]
           for name in evaluation.features.columns},
        "expected": evaluation.labels[rows],
        "answered": _plain(labels.reshape(-1))[rows],
    }  # fmt: skip
    if probabilities is not None and evaluation.probabilities is not None:
        for index in range(probabilities.shape[1]):
            columns[f"expected_probability_{index}"] = evaluation.probabilities[rows, index]
            columns[f"answered_probability_{index}"] = probabilities[rows, index]
    return pd.DataFrame(columns)
