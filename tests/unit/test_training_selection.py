"""Split, folds and choice: deterministic, no entity on two sides, every class on both."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from platform_assets.features.spec import IRIS
from platform_assets.training.candidates import CANDIDATES, parameters
from platform_assets.training.selection import (
    Rows,
    TrainingError,
    best_candidate,
    cross_validate,
    evaluate,
    fit,
    fold_of_rows,
    split_evaluation,
)

SPEC = IRIS.training


def _rows(seed: int = 0) -> Rows:
    """Iris, each flower three times, in an order of `seed`."""
    from sklearn.datasets import load_iris

    data = load_iris()
    order = np.random.default_rng(seed).permutation(450)
    values = np.concatenate([data.data * growth for growth in (0.94, 0.97, 1.0)])
    return Rows(
        values[order].astype(np.float32),
        np.tile(data.target, 3)[order].astype(np.int64),
        np.tile(np.arange(150), 3)[order].astype(np.int64),
    )


def _tiny(per_class: list[int]) -> Rows:
    labels = np.repeat(np.arange(len(per_class)), per_class)
    return Rows(
        np.arange(len(labels), dtype=np.float32)[:, None], labels, np.arange(len(labels)) + 100
    )


def test_no_entity_is_both_trained_on_and_evaluated() -> None:
    training, evaluation = split_evaluation(_rows(), SPEC)
    assert not set(training.groups.tolist()) & set(evaluation.groups.tolist())
    assert (len(training.labels), len(evaluation.labels)) == (360, 90)
    assert np.bincount(evaluation.labels).tolist() == [30, 30, 30]


def test_the_same_entities_are_held_out_whatever_the_order_of_the_rows() -> None:
    held = [set(split_evaluation(_rows(seed), SPEC)[1].groups.tolist()) for seed in (1, 2)]
    assert held[0] == held[1]


def test_another_seed_holds_out_other_entities() -> None:
    other = dataclasses.replace(SPEC, seed=SPEC.seed + 1)
    assert set(split_evaluation(_rows(), SPEC)[1].groups.tolist()) != set(
        split_evaluation(_rows(), other)[1].groups.tolist()
    )


@pytest.mark.parametrize("per_class", [[3, 50, 50], [4, 4, 4], [3, 3], [100, 7, 31]])
def test_every_class_is_on_both_sides_and_in_every_fold(per_class: list[int]) -> None:
    training, evaluation = split_evaluation(_tiny(per_class), SPEC)
    classes = set(range(len(per_class)))
    assert set(evaluation.labels.tolist()) == set(training.labels.tolist()) == classes
    folds = min(5, int(np.bincount(training.labels).min()))
    fold = fold_of_rows(training, folds, 1)
    for number in range(folds):
        assert set(training.labels[fold == number].tolist()) == classes


def test_a_class_of_two_entities_is_refused() -> None:
    with pytest.raises(TrainingError, match="only 1 different entities left"):
        split_evaluation(_tiny([2, 50]), SPEC)


def test_a_tie_goes_to_the_better_log_loss() -> None:
    def result(accuracy: float, loss: float) -> dict[str, float]:
        return {"cv_accuracy": accuracy, "cv_neg_log_loss": -loss}

    results = {"a": result(0.9, 0.1), "b": result(0.95 + 1e-12, 0.4), "c": result(0.95, 0.2)}
    assert best_candidate(results, "accuracy") == "c"
    results["b"] = result(0.96, 0.4)
    assert best_candidate(results, "accuracy") == "b"


def test_an_estimator_that_cannot_be_fitted_says_so() -> None:
    rows = _rows()
    broken = dataclasses.replace(rows, values=rows.values * np.float32("nan"))
    with pytest.raises(TrainingError, match="LinearDiscriminantAnalysis cannot be fitted"):
        cross_validate(CANDIDATES["linear_discriminant"](0), broken, SPEC)


@pytest.mark.parametrize("name", SPEC.candidates)
def test_a_candidate_learns_the_same_model_twice_and_is_good(name: str) -> None:
    training, evaluation = split_evaluation(_rows(), SPEC)
    first, second = (
        evaluate(fit(CANDIDATES[name](SPEC.seed), training, SPEC), evaluation) for _ in range(2)
    )
    assert np.array_equal(first.probabilities, second.probabilities)
    assert first.metrics["accuracy"] > 0.9
    assert first.probabilities.shape == (90, 3)
    assert parameters(CANDIDATES[name](SPEC.seed))


@pytest.mark.parametrize("name", SPEC.candidates)
def test_a_candidate_answers_alike_in_onnx_at_single_precision(name: str) -> None:
    import onnxruntime
    from skl2onnx import to_onnx

    rows = _rows()
    estimator = fit(CANDIDATES[name](SPEC.seed), rows, SPEC)
    graph = to_onnx(estimator, rows.values[:1], options={id(estimator): {"zipmap": False}})
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    noise = np.random.default_rng(1).normal(0, 0.2, (2000, 4))
    points = (np.resize(rows.values, (2000, 4)) + noise).astype(np.float32)
    labels, probabilities = session.run(None, {session.get_inputs()[0].name: points})
    expected = Rows(points, np.zeros(2000, np.int64), np.zeros(2000, np.int64))
    assert (labels == estimator.predict(expected.values)).all()
    assert np.abs(probabilities - estimator.predict_proba(points)).max() < 1e-5
