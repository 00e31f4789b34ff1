"""Fitting, comparing and choosing: deterministic, and clear about what cannot be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from platform_assets.model_spec import (
    CandidateSpec,
    Evaluation,
    FeatureSpec,
    Gates,
    Task,
    TextEncoding,
)
from platform_assets.training.candidates import build, expand
from platform_assets.training.folds import folds
from platform_assets.training.importance import permutation_importance
from platform_assets.training.preprocessing import target_encoders
from platform_assets.training.rows import Rows, TrainingError, unseen_texts
from platform_assets.training.selection import cross_validate, evaluate, fit, rank
from platform_assets.training.splits import split_evaluation
from serving_gateway.contract import DType
from tests.support.models import IRIS
from tests.support.tabular import CLASSES, mixed_rows, mixed_spec

NAMES = [str(one.estimator) for one in IRIS.candidates]


def _iris() -> Rows:
    """Iris, each flower three times."""
    data = load_iris()
    values = np.concatenate([data.data * growth for growth in (0.94, 0.97, 1.0)])
    frame = pd.DataFrame(values.astype(np.float32), columns=list(IRIS.feature_names))
    return Rows(frame, np.tile(data.target, 3).astype(np.int64), np.tile(np.arange(150), 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_candidate_learns_the_same_model_twice_and_is_good(name: str) -> None:
    spec = dataclasses.replace(IRIS, candidates=(CandidateSpec(name),))
    training, evaluation, _ = split_evaluation(_iris(), spec)
    first, second = (
        evaluate(fit(build(expand(spec)[0], spec), training, spec)[0], evaluation, spec, (0, 1, 2))
        for _ in range(2)
    )
    assert first.answers.probabilities is not None
    assert np.array_equal(first.answers.probabilities, np.asarray(second.answers.probabilities))
    assert first.metrics["accuracy"] > 0.9
    assert first.answers.probabilities.shape == (len(evaluation), 3)
    assert first.classes_not_evaluated == ()


@pytest.mark.parametrize("name", ["logistic_regression", "random_forest"])
def test_text_of_an_entity_is_not_encoded_by_the_entity_s_own_labels(name: str) -> None:
    """Streets of two customers each: a model that trusts them is worse than one without."""
    chance = np.random.default_rng(0)
    customers = np.repeat(np.arange(300), 10)
    trait = chance.normal(size=300)
    frame = pd.DataFrame(
        {
            "street": [f"s{one // 2}" for one in customers],
            "x": (trait[customers] + chance.normal(size=3_000)).astype(np.float32),
        }
    )
    labels = (trait[customers] + 0.3 * chance.normal(size=3_000) > 0).astype(np.int64)
    held_out = np.isin(customers, chance.permutation(300)[:60])
    street = FeatureSpec("street", DType.BYTES, encoding=TextEncoding.TARGET)
    found = {}
    for features in ((street, FeatureSpec("x")), (FeatureSpec("x"),)):
        spec = mixed_spec(Task.BINARY, (0, 1), candidates=(CandidateSpec(name),), features=features)
        names = [feature.name for feature in features]
        own = Rows(frame[names], labels, customers)
        fitted = fit(build(expand(spec)[0], spec), own.take(~held_out), spec)[0]
        found[len(features)] = evaluate(fitted, own.take(held_out), spec, (0, 1)).metrics
        assert not any(isinstance(one.cv, list) for one in target_encoders(fitted))
    assert found[2]["log_loss"] < found[1]["log_loss"] + 0.1


def test_importance_of_a_rare_class_is_known() -> None:
    chance = np.random.default_rng(0)
    labels = np.zeros(5_000, np.int64)
    labels[[7, 1_111, 4_003]] = 1
    frame = pd.DataFrame({"x": (labels + 0.1 * chance.normal(size=5_000)).astype(np.float32)})
    rows = Rows(frame, labels, np.arange(5_000))
    spec = mixed_spec(
        Task.BINARY,
        (0, 1),
        candidates=(CandidateSpec("logistic_regression"),),
        features=(FeatureSpec("x"),),
        evaluation=Evaluation(metric="roc_auc"),
    )
    fitted = fit(build(expand(spec)[0], spec), rows, spec)[0]
    [importance] = permutation_importance(fitted, rows, spec, (0, 1))
    assert importance.mean > 0.2


def test_a_tie_goes_to_the_better_log_loss() -> None:
    def result(accuracy: float, loss: float) -> dict[str, float]:
        return {"cv_accuracy": accuracy, "cv_log_loss": loss}

    results = {"a": result(0.9, 0.1), "b": result(0.95 + 1e-12, 0.4), "c": result(0.95, 0.2)}
    assert rank(results, IRIS)[0] == "c"
    results["b"] = result(0.96, 0.4)
    assert rank(results, IRIS)[0] == "b"


def test_the_smaller_error_wins() -> None:
    spec = mixed_spec(Task.REGRESSION)
    spec = dataclasses.replace(
        spec,
        evaluation=dataclasses.replace(spec.evaluation, metric="mean_absolute_error"),
        gates=Gates(metric_floor=1e9),
    )
    names = {"a": 5e9, "b": 4e9, "c": 6e9}
    results = {
        name: {"cv_mean_absolute_error": value, "cv_root_mean_squared_error": 1.0}
        for name, value in names.items()
    }
    assert rank(results, spec)[0] == "b"


@pytest.mark.parametrize("factor", ["nan", "0"])
def test_an_estimator_that_cannot_be_fitted_says_so(factor: str) -> None:
    rows = _iris()
    broken = dataclasses.replace(rows, features=rows.features * np.float32(factor))
    pipeline = build(expand(IRIS)[1], IRIS)
    with pytest.raises(TrainingError, match="LinearDiscriminantAnalysis cannot be fitted"):
        cross_validate(pipeline, broken, folds(broken, IRIS), IRIS, (0, 1, 2))


def test_a_class_that_a_fold_never_saw_has_no_probability_there() -> None:
    spec = dataclasses.replace(IRIS, candidates=(CandidateSpec("decision_tree"),))
    rows = _iris()
    learn, test = np.flatnonzero(rows.labels < 2), np.arange(len(rows))
    done: list[tuple[int, float]] = []
    found, _ = cross_validate(
        build(expand(spec)[0], spec),
        rows,
        [(learn, test)],
        spec,
        (0, 1, 2),
        lambda *one: done.append(one),
    )
    assert done == [(1, found["cv_accuracy"])]
    assert found["cv_accuracy"] == pytest.approx(2 / 3, abs=0.02)
    assert found["cv_log_loss"] > 10


def test_a_class_without_evaluation_rows_is_reported() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["booleans"])
    rows = mixed_rows(spec)
    fitted, _ = fit(build(expand(spec)[0], spec), rows, spec)
    seen = rows.take(rows.labels == 0)
    assert evaluate(fitted, seen, spec, (False, True)).classes_not_evaluated == (True,)
    area = dataclasses.replace(
        spec, evaluation=dataclasses.replace(spec.evaluation, metric="roc_auc")
    )
    with pytest.raises(TrainingError, match="evaluation rows do not determine roc_auc"):
        evaluate(fitted, seen, area, (False, True))


def test_warnings_of_libraries_are_reported_once() -> None:
    spec = mixed_spec(
        Task.BINARY,
        CLASSES["two texts"],
        candidates=(CandidateSpec("logistic_regression", grid={"max_iter": (1,)}),),
    )
    rows = mixed_rows(spec)
    _, notes = cross_validate(
        build(expand(spec)[0], spec), rows, folds(rows, spec), spec, spec.target.classes
    )
    assert len(notes) == 1
    assert "converge" in notes[0]


def test_what_decides_is_important_and_what_does_not_is_not() -> None:
    spec = mixed_spec(Task.REGRESSION)
    rows = mixed_rows(spec, count=3000)
    fitted, _ = fit(build(expand(spec)[0], spec), rows, spec)
    found = permutation_importance(fitted, rows, spec, ())
    assert {one.feature for one in found} == set(spec.feature_names)
    assert found[0].feature == "weight"
    assert {one.feature: one.mean for one in found}["colour"] < found[0].mean / 10
    assert found == permutation_importance(fitted, rows, spec, ())


@pytest.mark.parametrize("estimator", ["ridge", "decision_tree"])
@pytest.mark.parametrize("names", [{"weight", "city", "visits"}, {"city", "colour"}])
def test_importance_is_that_of_shuffled_features(estimator: str, names: set[str]) -> None:
    spec = mixed_spec(Task.REGRESSION, candidates=(CandidateSpec(estimator),))
    features = tuple(one for one in spec.features if one.name in names)
    spec = dataclasses.replace(spec, features=features)
    rows = mixed_rows(spec, count=300)
    fitted, _ = fit(build(expand(spec)[0], spec), rows, spec)

    found = permutation_importance(fitted, rows, spec, ())

    chance = np.random.default_rng(spec.evaluation.seed)
    orders = [chance.permutation(300) for _ in range(3)]
    whole = evaluate(fitted, rows, spec, ()).metrics["r2"]
    for name in names:
        losses = []
        for order in orders:
            shuffled = rows.features.assign(**{name: rows.features[name].to_numpy()[order]})
            other = dataclasses.replace(rows, features=shuffled)
            losses.append(whole - evaluate(fitted, other, spec, ()).metrics["r2"])
        (measured,) = (one for one in found if one.feature == name)
        assert measured.mean == pytest.approx(np.mean(losses), abs=1e-9)


def test_texts_that_training_never_saw_are_counted_by_feature() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"])
    rows = mixed_rows(spec, count=200)
    training, evaluation = rows.take(np.arange(100)), rows.take(np.arange(100, 200))
    cities = evaluation.features["city"].to_numpy(copy=True)
    cities[:25] = "never seen"
    other = evaluation.features.assign(city=cities)
    assert unseen_texts(training, dataclasses.replace(evaluation, features=other)) == {"city": 0.25}
    assert unseen_texts(training, training) == {}
