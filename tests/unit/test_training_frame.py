"""What Feast gives becomes the tensor form exactly, or the column is named that does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from platform_assets.model_spec import FeatureSpec, ModelSpec, Task
from platform_assets.training.frame import _sort_rows, tensor_form
from platform_assets.training.rows import TrainingError
from serving_gateway.contract import DType
from tests.support.models import IRIS
from tests.support.tabular import mixed_spec


def _spec(dtype: DType, *, nullable: bool = False) -> ModelSpec:
    feature = FeatureSpec("x", dtype, nullable=nullable)
    return dataclasses.replace(mixed_spec(Task.REGRESSION), features=(feature,))


def _form(values: Any, dtype: DType, *, nullable: bool = False) -> np.ndarray[Any, Any]:
    frame = pd.DataFrame({"entity_id": np.arange(len(values)) + 1, "x": values})
    return tensor_form(frame, _spec(dtype, nullable=nullable))["x"].to_numpy()


NULLS = [
    (pd.Series([1.5, None]), DType.FP32, np.float32, [1.5, np.nan]),
    (pd.Series([1, None], dtype="Int64"), DType.INT64, np.float64, [1.0, np.nan]),
    (pd.Series([1, None], dtype=object), DType.INT64, np.float64, [1.0, np.nan]),
    (pd.Series([1.0, np.nan]), DType.INT64, np.float64, [1.0, np.nan]),
    (pd.Series([True, None], dtype=object), DType.BOOL, np.float32, [1.0, np.nan]),
    (pd.Series([True, None], dtype="boolean"), DType.BOOL, np.float32, [1.0, np.nan]),
    (pd.Series([2.0, None], dtype="Float64"), DType.FP64, np.float64, [2.0, np.nan]),
    (pd.Series([None, None], dtype=object), DType.FP64, np.float64, [np.nan, np.nan]),
]


@pytest.mark.parametrize(("values", "dtype", "tensor", "expected"), NULLS)
def test_what_may_be_missing_travels_as_a_type_that_can_say_so(
    values: Any, dtype: DType, tensor: Any, expected: list[float]
) -> None:
    found = _form(values, dtype, nullable=True)
    assert found.dtype == tensor
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize(("values", "dtype", "tensor", "expected"), NULLS)
def test_what_may_not_be_missing_is_named_with_its_row(
    values: Any, dtype: DType, tensor: Any, expected: list[float]
) -> None:
    with pytest.raises(TrainingError, match=r"x is missing for entity_id [12] \([12] of 2 rows\)"):
        _form(values, dtype)


def test_whole_numbers_keep_every_digit() -> None:
    large = [2**62 + 1, -(2**53) - 1, 0]
    for values in (
        pd.Series(large),
        pd.Series(large, dtype="Int64"),
        pd.Series(large, dtype=object),
    ):
        found = _form(values, DType.INT64)
        assert found.dtype == np.int64
        assert found.tolist() == large


@pytest.mark.parametrize("value", [1.5, 2.0**60, float("inf")])
def test_whole_numbers_that_a_join_made_floating_are_only_taken_when_nothing_is_lost(
    value: float,
) -> None:
    assert _form(pd.Series([3.0, 4.0]), DType.INT64).tolist() == [3, 4]
    with pytest.raises(TrainingError, match=r"x holds values that are not INT64: .*lost digits"):
        _form(pd.Series([3.0, value]), DType.INT64)


def test_booleans_and_texts() -> None:
    assert _form(pd.Series([True, False], dtype=object), DType.BOOL).dtype == np.bool_
    for values in (["é", None, ""], ["é", np.nan, ""]):
        found = _form(pd.Series(values, dtype=object), DType.BYTES, nullable=True)
        assert found.tolist() == ["é", "", ""]
        assert found.dtype == object
    assert _form(pd.Series(["a", None], dtype="category"), DType.BYTES).tolist() == ["a", ""]


def test_rows_of_one_time_are_sorted_by_their_key_however_it_is_held() -> None:
    key = IRIS.join_key.name
    # As Parquet's texts are read: in the order in which they appear.
    for keys in (pd.Categorical(list("zcba"), categories=list("zcba")), list("zcba")):
        frame = pd.DataFrame({"at": [2, 1, 1, 1], key: keys})
        ordered = _sort_rows(frame, "at", IRIS)
        assert ordered[key].tolist() == ["a", "b", "c", "z"]
        assert ordered.index.tolist() == [0, 1, 2, 3]


def test_text_among_numbers_is_named() -> None:
    with pytest.raises(TrainingError, match="x holds values that are not FP64"):
        _form(pd.Series([1.0, "many"], dtype=object), DType.FP64)
