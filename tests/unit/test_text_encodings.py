"""Texts of many values: grouped or replaced by means, in the graph as in scikit-learn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from platform_assets.export.conversion import export
from platform_assets.export.runtime import model_inputs, run_graph
from platform_assets.model_spec import CandidateSpec, FeatureSpec, ModelSpec, Task, TextEncoding
from platform_assets.training.importance import permutation_importance
from platform_assets.training.rows import Rows
from platform_assets.training.selection import evaluate
from serving_gateway.contract import DType
from tests.support.parity import fitted_candidate, graph_parity
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec

OPTIONS: dict[str, dict[str, Any]] = {
    "frequency": {"min_frequency": 20},
    "share": {"min_frequency": 0.05},
    "most": {"max_categories": 4},
    "both": {"min_frequency": 5, "max_categories": 6},
    "nothing rare": {"min_frequency": 1},
    "all rare": {"min_frequency": 5_000},
    "target": {"encoding": TextEncoding.TARGET},
}
TASKS = {
    Task.BINARY: CLASSES["two texts"],
    Task.MULTICLASS: CLASSES["integers"],
    Task.REGRESSION: (),
}


SMALL: dict[str, dict[str, tuple[int]]] = {
    "random_forest": {"n_estimators": (10,)},
    "hist_gradient_boosting": {"max_iter": (10,)},
    "lightgbm": {"n_estimators": (10,)},
    "xgboost": {"n_estimators": (10,)},
}


def _spec(task: Task, estimator: str, options: dict[str, Any]) -> ModelSpec:
    candidate = CandidateSpec(estimator, grid=SMALL.get(estimator, {}))
    spec = mixed_spec(task, TASKS[task], candidates=(candidate,))
    features = tuple(
        dataclasses.replace(one, **options) if one.name in {"city", "colour"} else one
        for one in spec.features
        if one.name in {"weight", "city", "member", "colour", "income"}
    )
    # One text as estimators read it by default, beside those with options.
    return dataclasses.replace(spec, features=(*features, FeatureSpec("plain", DType.BYTES)))


def _many(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A skewed city, from `Zürich 0` often to `Zürich 79` once, and some empty ones."""
    ranks = np.random.default_rng(seed).zipf(1.4, len(frame)) % 80
    cities = np.array([*(f"Zürich {rank}" for rank in range(79)), ""], dtype=object)[ranks]
    return frame.assign(city=cities, plain=frame["colour"])


def _rows(spec: ModelSpec) -> Rows:
    rows = mixed_rows(spec, 400)
    return dataclasses.replace(rows, features=_many(rows.features)[list(spec.feature_names)])


CASES = [
    *((Task.BINARY, "logistic_regression", name) for name in OPTIONS),
    *((Task.REGRESSION, "decision_tree", name) for name in OPTIONS),
    *((task, "hist_gradient_boosting", "target") for task in TASKS),
    *((task, "random_forest", "target") for task in TASKS),
    (Task.MULTICLASS, "linear_discriminant", "target"),
    (Task.MULTICLASS, "random_forest", "most"),
    (Task.MULTICLASS, "lightgbm", "target"),
    (Task.BINARY, "lightgbm", "both"),
    (Task.REGRESSION, "xgboost", "most"),
    (Task.MULTICLASS, "hist_gradient_boosting", "both"),
]


@pytest.mark.parametrize(("task", "estimator", "option"), CASES)
def test_every_row_is_answered_alike(task: Task, estimator: str, option: str) -> None:
    spec = _spec(task, estimator, OPTIONS[option])
    estimator_ = fitted_candidate(spec, _rows(spec))
    asked = _many(mixed_frame(1_500, 9, wild=True), seed=5)[list(spec.feature_names)]
    asked.loc[::7, "city"] = "never seen"
    parity, outputs = graph_parity(estimator_, spec, asked)
    assert parity.holds, parity
    assert len(np.unique(outputs["prediction" if task is Task.REGRESSION else "label"])) > 1


def test_infrequent_texts_and_unknown_ones_are_one_category_of_the_graph() -> None:
    spec = _spec(Task.BINARY, "logistic_regression", OPTIONS["most"])
    rows = _rows(spec)
    fitted = fitted_candidate(spec, rows)
    columns = fitted.named_steps["columns"].get_feature_names_out()
    assert sum(name.startswith("city") for name in columns) == 4
    asked = (
        rows.features.head(1).loc[[0, 0, 0]].assign(city=["Zürich 70", "unheard of", "Zürich 1"])
    )
    signature = spec.signature(spec.target.classes)
    outputs = run_graph(export(fitted, signature, "mixed"), model_inputs(signature, asked))
    rare, unknown, frequent = outputs["probabilities"][:, 1]
    assert rare == unknown != frequent


def test_target_encoding_is_cross_fitted() -> None:
    """A text that each row has for itself says nothing, and seems to say all without it."""
    spec = mixed_spec(Task.BINARY, (False, True), candidates=(CandidateSpec("decision_tree"),))
    city = FeatureSpec("city", DType.BYTES, encoding=TextEncoding.TARGET)
    spec = dataclasses.replace(spec, features=(city,))
    cities = np.array([f"city {number}" for number in range(400)], dtype=object)
    labels = np.random.default_rng(0).integers(0, 2, 400)
    rows = Rows(pd.DataFrame({"city": cities}), labels, np.arange(400))
    fitted = fitted_candidate(spec, rows)
    encoded = fitted.named_steps["columns"].transform(rows.features)
    model = fitted.named_steps["model"]
    assert model.score(encoded, labels) < 0.7
    assert clone(model).fit(encoded, labels).score(encoded, labels) == 1.0


@pytest.mark.parametrize(
    ("task", "estimator", "option"),
    [
        (Task.MULTICLASS, "logistic_regression", "target"),
        (Task.REGRESSION, "ridge", "most"),
        (Task.REGRESSION, "ridge", "nothing rare"),
        (Task.REGRESSION, "decision_tree", "target"),
    ],
)
def test_importance_is_that_of_the_shuffled_text(task: Task, estimator: str, option: str) -> None:
    spec = _spec(task, estimator, OPTIONS[option])
    rows = _rows(spec)
    fitted = fitted_candidate(spec, rows)
    found = permutation_importance(fitted, rows, spec, spec.target.classes)
    assert {one.feature for one in found} == set(spec.feature_names)
    chance = np.random.default_rng(spec.evaluation.seed)
    orders = [chance.permutation(len(rows)) for _ in range(3)]

    def measured(features: pd.DataFrame) -> float:
        other = dataclasses.replace(rows, features=features)
        return evaluate(fitted, other, spec, spec.target.classes).metrics[spec.evaluation.metric]

    whole = measured(rows.features)
    for name in ("city", "colour", "weight"):
        losses = []
        for order in orders:
            column = rows.features[name].to_numpy()[order]
            losses.append(whole - measured(rows.features.assign(**{name: column})))
        (importance,) = (one for one in found if one.feature == name)
        assert importance.mean == pytest.approx(np.mean(losses), abs=1e-9)
