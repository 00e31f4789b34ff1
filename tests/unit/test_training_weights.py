"""Rows that count more than others while a model is fitted, and never when it is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.utils.class_weight import compute_sample_weight

from platform_assets.features.reading import read_source
from platform_assets.features.storage import write_feature_data
from platform_assets.model_spec import (
    BALANCED,
    CandidateSpec,
    ModelSpec,
    Source,
    Target,
    Task,
    WeightColumn,
)
from platform_assets.resources.source import SourceError, SourceResource
from platform_assets.training.candidates import CandidateError, build, expand
from platform_assets.training.frame import source_rows
from platform_assets.training.rows import Rows
from platform_assets.training.selection import evaluate, fit
from platform_assets.training.weights import row_weights
from tests.support.feature_chain import MIXED, mixed_lines
from tests.support.several_tables import new_tables
from tests.support.tabular import CLASSES, mixed_rows, mixed_spec

WEIGHTED = dataclasses.replace(MIXED, weight=WeightColumn("importance", "note"))


def _read(path: Path, spec: ModelSpec, weights: Any = str) -> Any:
    header, *lines = mixed_lines()
    cells = [f"{line.rpartition(',')[0]},{weights(row)}" for row, line in enumerate(lines)]
    (path / "rows.csv").write_text("\n".join([header, *cells, ""]), encoding="utf-8")
    spec = dataclasses.replace(spec, source=Source(str(path / "rows.csv")))
    return read_source(spec, SourceResource())


def test_weights_stand_beside_the_labels_and_not_among_the_features(tmp_path: Path) -> None:
    read = _read(tmp_path, WEIGHTED)
    data = write_feature_data(read, WEIGHTED, tmp_path)
    assert "importance" not in parquet.read_schema(data.features_path).names
    assert parquet.read_table(data.labels_path)["importance"].to_pylist() == list(range(40))
    rows = source_rows(read.table, WEIGHTED)
    assert rows.weights is not None
    assert sorted(rows.weights.tolist()) == list(range(40))
    assert "importance" not in rows.features
    some = rows.take(np.array([3, 1])).weights
    assert some is not None
    assert some.tolist() == rows.weights[[3, 1]].tolist()


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ("-1", "weights that are not numbers from 0 up (importance: 1, first in row 8)"),
        ("", "weights that are not numbers from 0 up (importance: 1, first in row 8)"),
        ("inf", "weights that are not numbers from 0 up (importance: 1, first in row 8)"),
    ],
)
def test_a_weight_that_means_nothing_is_refused(tmp_path: Path, weight: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        _read(tmp_path, WEIGHTED, lambda row: weight if row == 7 else "1")
    assert said in str(caught.value)


def test_rows_that_all_count_for_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no row with a importance above 0"):
        _read(tmp_path, WEIGHTED, lambda _: "0")


def test_a_row_without_a_label_needs_no_weight(tmp_path: Path) -> None:
    spec = dataclasses.replace(WEIGHTED, target=Target("paid", drop_missing=True))
    header, *lines = mixed_lines()
    lines[0] = lines[0].replace(",yes,ignored", ",,")
    cells = [line.replace(",ignored", ",1") for line in lines]
    (tmp_path / "rows.csv").write_text("\n".join([header, *cells, ""]), encoding="utf-8")
    spec = dataclasses.replace(spec, source=Source(str(tmp_path / "rows.csv")))
    assert read_source(spec, SourceResource()).table.num_rows == 40


def test_a_weight_of_a_class_that_rows_do_not_have_is_refused(tmp_path: Path) -> None:
    spec = dataclasses.replace(MIXED, class_weight={"maybe": 3.0})
    with pytest.raises(SourceError, match=r"class_weight names maybe, .* are no, yes"):
        _read(tmp_path, spec)


def test_weights_of_column_and_class_are_multiplied() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["booleans"], class_weight={True: 3})
    labels, column = np.array([0, 1, 1, 0]), np.array([1.0, 2.0, 0.0, 5.0])
    rows = Rows(mixed_rows(spec, 4).features, labels, np.arange(4), weights=column)
    assert np.array_equal(row_weights(rows, spec), [1, 6, 0, 5])  # type: ignore[arg-type] # not None
    balanced = dataclasses.replace(spec, class_weight=BALANCED)
    expected = compute_sample_weight("balanced", labels) * column
    assert np.array_equal(row_weights(rows, balanced), expected)  # type: ignore[arg-type] # not None
    assert row_weights(dataclasses.replace(rows, weights=None), mixed_spec(Task.REGRESSION)) is None


@pytest.mark.parametrize("name", ["logistic_regression", "gradient_boosting", "random_forest"])
def test_a_class_that_counts_more_is_answered_more_often(name: str) -> None:
    plain = mixed_spec(Task.BINARY, CLASSES["two texts"], candidates=(CandidateSpec(name),))
    heavy = dataclasses.replace(plain, class_weight={"yes": 30.0})
    rows = mixed_rows(plain)
    shares = []
    for spec in (plain, heavy):
        fitted, _ = fit(build(expand(spec)[0], spec), rows, spec)
        evaluated = evaluate(fitted, mixed_rows(spec, seed=5), spec, spec.target.classes)
        shares.append(float((evaluated.answers.labels == "yes").mean()))
    assert shares[1] > shares[0] + 0.05


def test_metrics_count_every_row_once() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"])
    rows = mixed_rows(spec)
    fitted, _ = fit(build(expand(spec)[0], spec), rows, spec)
    weighted = dataclasses.replace(rows, weights=np.linspace(0, 9, len(rows)))
    plain = evaluate(fitted, rows, spec, spec.target.classes)
    assert evaluate(fitted, weighted, spec, spec.target.classes).metrics == plain.metrics


def test_an_estimator_of_a_function_that_takes_no_weights_is_refused() -> None:
    candidate = CandidateSpec(function="tests.support.estimators:discriminant")
    spec = mixed_spec(
        Task.BINARY, CLASSES["two texts"], candidates=(candidate,), class_weight=BALANCED
    )
    with pytest.raises(CandidateError, match=r"candidates\[0\].*takes no weights"):
        build(expand(spec)[0], spec)


def test_a_pipeline_of_a_function_gets_weights_in_its_last_step() -> None:
    candidate = CandidateSpec(function="tests.support.estimators:scaled")
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"], candidates=(candidate,))
    rows = mixed_rows(spec)
    narrow = rows.features.assign(distance=rows.features["distance"] - 1e6)
    rows = dataclasses.replace(rows, features=narrow)
    heavy = dataclasses.replace(spec, class_weight={"yes": 1e3})
    plain, weighted = (fit(build(expand(one)[0], one), rows, one)[0] for one in (spec, heavy))
    share = [(one.predict(rows.features) == "yes").mean() for one in (plain, weighted)]
    assert share[1] > share[0] + 0.05


def test_the_weight_column_is_read_as_numbers() -> None:
    from platform_assets.features.sources.columns import source_columns

    (column,) = (one for one in source_columns(WEIGHTED) if one.name == "importance")
    assert (column.arrow, column.header) == (pa.float64(), "note")


def test_labels_of_several_tables_have_the_weight(tmp_path: Path) -> None:
    chain = new_tables(tmp_path)
    file = tmp_path / "payments" / "payments.csv"
    header, *lines = file.read_text().splitlines()
    cells = [f"{line},{row % 7}" for row, line in enumerate(lines)]
    file.write_text("\n".join([f"{header},worth", *cells, ""]))
    spec = dataclasses.replace(chain.model(), weight=WeightColumn("worth"))
    read = read_source(spec, SourceResource())
    data = write_feature_data(read, spec.own_table, tmp_path / "data")
    labels = parquet.read_table(data.labels_path)
    assert sorted(set(labels["worth"].to_pylist())) == list(range(7))
