"""The comparison that gates a version."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from platform_assets.export.parity import compare, differing_frame
from platform_assets.resources.records import EvaluationSet

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


TIED = np.array([[0.5, 0.5, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])


@pytest.mark.parametrize(("gap", "tied"), [(0.0, 1), (0.9e-4, 1), (1.1e-4, 0)])
def test_the_label_of_a_tie_is_not_compared(gap: float, tied: int) -> None:
    expected = TIED + np.array([[gap, 0, 0], [0, 0, 0], [0, 0, 0]])
    parity = compare(np.array([1, 1, 2]), expected, LABELS, expected, tolerance=1e-4)
    assert parity.metadata()["rows_tied"] == parity.rows_tied == tied
    assert parity.label_mismatches == 1 - tied
    assert parity.holds is bool(tied)


def test_the_probabilities_of_a_tie_are_compared() -> None:
    shifted = TIED + np.array([[2e-4, 0, 0], [0, 0, 0], [0, 0, 0]])
    parity = compare(LABELS, shifted, LABELS, TIED, tolerance=1e-4)
    assert not parity.holds
    assert parity.differing_rows == (0,)


def test_nan_is_no_parity() -> None:
    broken = PROBABILITIES.copy()
    broken[0, 0] = np.nan
    found = compare(LABELS, broken, LABELS, PROBABILITIES)
    assert not found.holds
    assert found.differing_rows == (0,)


def test_no_rows_prove_nothing() -> None:
    empty = np.empty((0,), dtype=np.int64)
    assert not compare(empty, None, empty, None).holds


def test_labels_alone_may_be_compared() -> None:
    assert compare(LABELS, None, LABELS, None).holds


def test_texts_come_as_bytes_and_booleans_as_numbers() -> None:
    expected = np.array(["ja", "Ünn"], dtype=object)
    for got in (expected, np.array([b"ja", "Ünn".encode()], dtype=object)):
        assert compare(got, None, expected, None).holds
    assert not compare(np.array([b"ja", b"Unn"]), None, expected, None).holds
    assert compare(np.array([0, 1]), None, np.array([False, True]), None).holds
    assert compare(np.array([0, 1]), None, np.array([True, True]), None).differing_rows == (0,)


@pytest.mark.parametrize(
    ("got", "expected", "holds"),
    [
        (1000.049, 1000.0, True),
        (1000.051, 1000.0, False),
        (np.nan, 1000.0, False),
        (-1e6, 1e6, False),
        (2.00009e-9, 2e-9, True),
        (9e-5, 2e-9, False),
    ],
)
def test_a_prediction_may_be_off_by_a_share_of_the_spread(
    got: float, expected: float, holds: bool
) -> None:
    parity = compare(np.array([[0.0], [got]]), None, np.array([0.0, expected]), None, 1e-4)
    assert parity.holds is holds
    assert parity.differing_rows == (() if holds else (1,))
    assert parity.metadata()["label_mismatches"] == int(not holds)


@pytest.mark.parametrize(
    ("expected", "off", "holds"),
    [
        (1e-9, 9e-5, False),
        (2e6, 199.0, True),
        (2e6, 201.0, False),
        (0.0, 9e-5, True),
        (0.0, 2e-4, False),
    ],
)
def test_predictions_without_a_spread_are_held_against_their_size(
    expected: float, off: float, holds: bool
) -> None:
    same = np.full(5, expected)
    assert compare(same + off, None, same, None, 1e-4).holds is holds


def test_the_rows_that_differ_are_kept_with_all_that_is_known_of_them() -> None:
    evaluation = EvaluationSet(
        features=pd.DataFrame({"city": ["a", "b", "c"], "row": [1.5, 2.5, 3.5]}),
        label_true=LABELS,
        labels=LABELS,
        probabilities=PROBABILITIES,
        groups=np.array([10, 20, 30]),
    )
    answered = PROBABILITIES + np.array([[0, 0, 0], [0, 0, 0], [0.5, 0, 0]])
    parity = compare(np.array([0, 2, 2]), answered, LABELS, PROBABILITIES)
    kept = differing_frame(parity, evaluation, np.array([0, 2, 2]), answered)
    assert kept.to_dict("records") == [
        {
            "row": row,
            "entity": row * 10 + 10,
            "feature.city": "abc"[row],
            "feature.row": row + 1.5,
            "expected": row,
            "answered": 2,
            **{f"expected_probability_{k}": PROBABILITIES[row, k] for k in range(3)},
            **{f"answered_probability_{k}": answered[row, k] for k in range(3)},
        }
        for row in (1, 2)
    ]


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [(LABELS[:2], PROBABILITIES), (LABELS, PROBABILITIES[:, :2]), (LABELS, None)],
)
def test_answers_of_another_shape_are_an_error(
    labels: np.ndarray, probabilities: np.ndarray | None
) -> None:
    with pytest.raises(ValueError, match=r"answers|probabilities"):
        compare(labels, probabilities, LABELS, PROBABILITIES)
