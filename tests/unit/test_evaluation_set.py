"""The evaluation set survives its file; the pictures are pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from platform_assets.resources.evaluation import read_evaluation, write_evaluation
from platform_assets.training.pictures import evaluation_picture, inline


def _frame(*names: str) -> pd.DataFrame:
    return pd.DataFrame({name: np.array([1.5, 2.5], np.float32) for name in names}, index=[7, 9])


@pytest.mark.parametrize("classes", [2, 12])
def test_what_is_written_is_read_with_columns_in_their_order(classes: int) -> None:
    probabilities = np.random.default_rng(0).random((2, classes))
    written = write_evaluation(
        _frame("zeta", "alpha"), np.array([1, 0]), np.array([1, 1]), probabilities
    )
    read = read_evaluation(written)
    assert list(read.features.columns) == ["zeta", "alpha"]
    assert set(read.features.dtypes) == {np.dtype("float32")}
    assert read.label_true.tolist() == [1, 0]
    assert read.labels.tolist() == [1, 1]
    assert np.array_equal(read.probabilities, probabilities)  # type: ignore[arg-type] # not None here


def test_a_model_without_probabilities_has_none() -> None:
    written = write_evaluation(_frame("a"), np.array([1, 0]), np.array([1, 1]), None)
    assert read_evaluation(written).probabilities is None


@pytest.mark.parametrize("name", ["label", "label_true", "probability_0"])
def test_a_feature_cannot_take_the_name_of_an_answer(name: str) -> None:
    with pytest.raises(ValueError, match="are reserved"):
        write_evaluation(_frame(name), np.array([1, 0]), np.array([1, 1]), None)


def test_the_picture_is_the_same_png_for_the_same_answers() -> None:
    true, labels = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    probabilities = np.eye(3)[labels] * 0.8 + 0.2 / 3
    first, second = (
        evaluation_picture(true, labels, probabilities, (0, 1, 2), ("a", "b", "c"))
        for _ in range(2)
    )
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert inline(first, "all").startswith("![all](data:image/png;base64,iVBOR")
