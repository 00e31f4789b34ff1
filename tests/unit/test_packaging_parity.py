"""The comparison that gates a version."""

from __future__ import annotations

import numpy as np
import pytest

from platform_assets.packaging.parity import compare

LABELS = np.array([0, 1, 2])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])


def test_equal_answers_hold() -> None:
    parity = compare(LABELS.reshape(-1, 1), PROBABILITIES, LABELS, PROBABILITIES)
    assert parity.holds
    assert parity.rows == 3


def test_one_other_label_breaks_parity_and_is_named() -> None:
    parity = compare(np.array([0, 2, 2]), PROBABILITIES, LABELS, PROBABILITIES)
    assert not parity.holds
    assert parity.differing_rows == (1,)


def test_a_probability_beyond_the_tolerance_breaks_parity() -> None:
    shifted = PROBABILITIES + np.array([[0, 0, 0], [0, 0, 0], [2e-4, 0, 0]])
    parity = compare(LABELS, shifted, LABELS, PROBABILITIES, tolerance=1e-4)
    assert not parity.holds
    assert parity.differing_rows == (2,)
    assert parity.largest_probability_difference == pytest.approx(2e-4)


def test_nan_is_no_parity() -> None:
    broken = PROBABILITIES.copy()
    broken[0, 0] = np.nan
    assert not compare(LABELS, broken, LABELS, PROBABILITIES).holds


def test_no_rows_prove_nothing() -> None:
    empty = np.empty((0,), dtype=np.int64)
    assert not compare(empty, None, empty, None).holds


def test_a_regression_is_compared_by_its_labels_alone() -> None:
    assert compare(LABELS, None, LABELS, None).holds


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [(LABELS[:2], PROBABILITIES), (LABELS, PROBABILITIES[:, :2]), (LABELS, None)],
)
def test_answers_of_another_shape_are_an_error(
    labels: np.ndarray, probabilities: np.ndarray | None
) -> None:
    with pytest.raises(ValueError, match=r"answers|probabilities"):
        compare(labels, probabilities, LABELS, PROBABILITIES)
