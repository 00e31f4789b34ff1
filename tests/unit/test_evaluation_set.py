"""The evaluation set survives its file; the pictures are pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from platform_assets.features.summary import class_picture, target_picture
from platform_assets.resources.evaluation import read_evaluation, write_evaluation
from platform_assets.resources.plots import inline
from platform_assets.resources.records import EvaluationSet
from platform_assets.training.importance import Importance
from platform_assets.training.metrics import Answers
from platform_assets.training.pictures import (
    candidates_picture,
    confusion_picture,
    curves_picture,
    importance_picture,
    regression_picture,
)
from tests.support.tabular import mixed_frame


def _frame(*names: str) -> pd.DataFrame:
    return pd.DataFrame({name: np.array([1.5, 2.5], np.float32) for name in names}, index=[7, 9])


@pytest.mark.parametrize("classes", [2, 12])
def test_what_is_written_is_read_with_columns_in_their_order(classes: int) -> None:
    probabilities = np.random.default_rng(0).random((2, classes))
    groups = np.array([0, 1])
    written = EvaluationSet(
        _frame("zeta", "alpha"), np.array([1, 0]), np.array([1, 1]), probabilities, groups
    )
    read = read_evaluation(write_evaluation(written))
    assert list(read.features.columns) == ["zeta", "alpha"]
    assert set(read.features.dtypes) == {np.dtype("float32")}
    assert read.label_true.tolist() == [1, 0]
    assert read.labels.tolist() == [1, 1]
    assert np.array_equal(read.probabilities, probabilities)  # type: ignore[arg-type] # not None here
    assert read.groups.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (np.array(["ja", "été"] * 50, object), object),
        (np.array([True, False] * 50), bool),
        (np.array([2**60 + 1, -1] * 50), np.int64),
        (np.array([0.1, 1e300] * 50), np.float64),
    ],
)
def test_mixed_rows_and_labels_of_any_type_come_back_as_they_were(labels: Any, dtype: Any) -> None:
    frame = mixed_frame(100, 3, wild=True)
    frame["speed"] = np.full(100, np.nan, np.float32)
    groups = np.array([f"kunde {one % 7}" for one in range(100)], dtype=object)
    read = read_evaluation(
        write_evaluation(EvaluationSet(frame, labels, labels[::-1], None, groups))
    )
    pd.testing.assert_frame_equal(read.features, frame)
    assert read.label_true.dtype == dtype
    assert read.label_true.tolist() == labels.tolist()
    assert read.labels.tolist() == labels[::-1].tolist()
    assert read.groups.tolist() == groups.tolist()
    assert read.probabilities is None


@pytest.mark.parametrize("name", ["serving.label", "serving.probability_0"])
def test_a_feature_cannot_take_the_name_of_an_answer(name: str) -> None:
    labels = np.array([1, 0])
    with pytest.raises(ValueError, match="are reserved"):
        write_evaluation(EvaluationSet(_frame(name), labels, labels, None, labels))


CLASSES = ("a", "$b$", "")
ANSWERS = Answers(
    np.array(["a", "$b$", "$b$", ""], object),
    np.array(["a", "$b$", "", ""], object),
    np.eye(3)[[0, 1, 2, 2]] * 0.8 + 0.2 / 3,
    CLASSES,
)
NUMBERS = Answers(np.arange(20.0), np.arange(20.0) + 0.5)
FOUND = [Importance("x", 0.4, 0.1), Importance("y", -0.1, 0.0)]
RESULTS = {"tree": {"cv_r2": 0.5, "cv_r2_std": 0.1}, "line": {"cv_r2": -0.5, "cv_r2_std": 0.0}}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: confusion_picture(ANSWERS, CLASSES),
        lambda: curves_picture(ANSWERS, CLASSES),
        lambda: regression_picture(NUMBERS),
        lambda: importance_picture(FOUND, "r2"),
        lambda: candidates_picture(RESULTS, "r2"),
    ],
)
def test_a_picture_is_the_same_png_for_the_same_answers(draw: Any) -> None:
    first, second = draw(), draw()
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert inline(first, "all").startswith("![all](data:image/png;base64,iVBOR")


@pytest.mark.parametrize("size", [0.0, 1.0, 1e16, -1e300])
def test_numbers_that_are_all_but_equal_are_drawn_too(size: float) -> None:
    numbers = np.array([size, np.nextafter(size, np.inf)])
    assert regression_picture(Answers(numbers, np.zeros(2))).startswith(b"\x89PNG")
    assert "base64,iVBOR" in target_picture("y", pa.chunked_array([numbers]))


def test_a_class_that_is_not_a_valid_formula_is_drawn_too() -> None:
    assert "base64,iVBOR" in class_picture("y", {r"$\frac{$": 1, "b": 2})


def test_classes_without_rows_and_many_classes_are_drawn_too() -> None:
    many = tuple(range(40))
    labels = np.arange(30)
    answers = Answers(labels, labels[::-1], np.full((30, 40), 1 / 40), many)
    names = [str(one) for one in many]
    assert confusion_picture(answers, names).startswith(b"\x89PNG")
    assert curves_picture(answers, names).startswith(b"\x89PNG")
    one_class = Answers(np.zeros(3, int), np.zeros(3, int), np.tile([0.9, 0.1], (3, 1)), (0, 1))
    assert curves_picture(one_class, ("no", "yes")).startswith(b"\x89PNG")
