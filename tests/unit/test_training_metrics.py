"""Metrics equal those of scikit-learn where it defines them, and know which way is better."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from platform_assets.model_spec import Evaluation, Task
from platform_assets.model_spec.training import metrics
from platform_assets.training.metrics import (
    METRICS,
    Answers,
    chosen_metric,
    codes,
    metrics_of,
    scores,
)

CLASSES = ("c", "a", "b")
RNG = np.random.default_rng(4)
STATED = RNG.dirichlet([1, 1, 1], 200)
TRUE = np.array(CLASSES, dtype=object)[RNG.integers(0, 3, 200)]
GOT = np.array(CLASSES, dtype=object)[STATED.argmax(axis=1)]


def test_several_classes() -> None:
    found = scores(Task.MULTICLASS, Answers(TRUE, GOT, STATED, CLASSES))
    ordered = STATED[:, [1, 2, 0]]  # scikit-learn wants them sorted
    assert found == pytest.approx(
        {
            "accuracy": reference.accuracy_score(TRUE, GOT),
            "balanced_accuracy": reference.balanced_accuracy_score(TRUE, GOT),
            "f1_macro": reference.f1_score(TRUE, GOT, average="macro"),
            "roc_auc": reference.roc_auc_score(TRUE, ordered, multi_class="ovr"),
            "average_precision": np.mean(
                [
                    reference.average_precision_score(one == TRUE, STATED[:, k])
                    for k, one in enumerate(CLASSES)
                ]
            ),
            "brier": reference.brier_score_loss(TRUE, ordered, labels=sorted(CLASSES)),
            "log_loss": reference.log_loss(TRUE, ordered),
        }
    )


@pytest.mark.parametrize("classes", [(False, True), (True, False), (0, 1)])
def test_two_classes_as_booleans_or_numbers(classes: tuple[bool | int, ...]) -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 2, 100)
    likely = np.round(rng.random(100), 1)  # with ties
    column = [1 - likely, likely]
    stated = np.stack([column[int(one)] for one in classes], axis=1)
    found = scores(Task.BINARY, Answers(true, (likely > 0.5).astype(int), stated, classes))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(true, likely))
    assert found["log_loss"] == pytest.approx(reference.log_loss(true, likely))
    # The second class is the positive one.
    positive, score = (true, likely) if classes[1] else (1 - true, 1 - likely)
    area = reference.average_precision_score(positive, score)
    assert found["average_precision"] == pytest.approx(area)
    assert found["brier"] == pytest.approx(reference.brier_score_loss(true, likely))
    assert scores(
        Task.BINARY, Answers(true.astype(bool), likely > 0.5, stated, classes)
    ) == pytest.approx(found)


def test_a_regression() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(size=50)
    got = true + rng.normal(size=50)
    assert scores(Task.REGRESSION, Answers(true, got)) == pytest.approx(
        {
            "r2": reference.r2_score(true, got),
            "mean_absolute_error": reference.mean_absolute_error(true, got),
            "mean_absolute_percentage_error": reference.mean_absolute_percentage_error(true, got),
            "pinball": reference.mean_pinball_loss(true, got),
            "root_mean_squared_error": reference.root_mean_squared_error(true, got),
        }
    )


def test_the_pinball_loss_is_that_of_the_quantile() -> None:
    true, got = np.array([1.0, 3.0, 4.0]), np.array([2.0, 2.0, 2.0])
    chosen = Evaluation("pinball", quantile=0.9)
    expected = reference.mean_pinball_loss(true, got, alpha=0.9)
    assert chosen_metric(chosen).compute(Answers(true, got)) == pytest.approx(expected)
    assert scores(Task.REGRESSION, Answers(true, got), chosen)["pinball"] == expected
    assert expected != METRICS["pinball"].compute(Answers(true, got))


def test_probabilities_in_single_precision_have_a_brier_score() -> None:
    stated = (STATED * 1.00001).astype(np.float32).astype(np.float64)
    found = METRICS["brier"].compute(Answers(TRUE, GOT, stated, CLASSES))
    exact = METRICS["brier"].compute(Answers(TRUE, GOT, STATED, CLASSES))
    assert found == pytest.approx(exact, abs=1e-6)


def test_what_the_rows_do_not_determine_is_not_a_number() -> None:
    one_class = Answers(np.array(["a"] * 3, object), GOT[:3], STATED[:3], CLASSES)
    assert np.isnan(METRICS["roc_auc"].compute(one_class))
    assert np.isnan(METRICS["r2"].compute(Answers(np.ones(3), np.ones(3))))
    assert np.isnan(
        METRICS["average_precision"].compute(Answers(TRUE[:0], GOT[:0], STATED[:0], ()))
    )
    zero = Answers(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
    assert np.isnan(METRICS["mean_absolute_percentage_error"].compute(zero))
    assert not METRICS["r2"].meets(float("nan"), -1e9)
    assert not METRICS["log_loss"].meets(float("nan"), 1e9)


def test_a_class_without_rows_does_not_spoil_the_area_of_the_others() -> None:
    seen = TRUE != "b"
    found = METRICS["roc_auc"].compute(Answers(TRUE[seen], GOT[seen], STATED[seen], CLASSES))
    expected = np.mean([
        reference.roc_auc_score(TRUE[seen] == CLASSES[k], STATED[seen][:, k]) for k in (0, 1)
    ])  # fmt: skip
    assert found == pytest.approx(expected)


def test_better_is_up_for_scores_and_down_for_errors() -> None:
    assert METRICS["accuracy"].gain(0.9, 0.8) == pytest.approx(0.1)
    errors = ("log_loss", "brier", "pinball", "mean_absolute_percentage_error")
    for name in errors:
        assert METRICS[name].gain(0.9, 0.8) == pytest.approx(-0.1)
    assert METRICS["average_precision"].gain(0.9, 0.8) == pytest.approx(0.1)
    assert METRICS["r2"].meets(0.5, 0.5)
    assert not METRICS["r2"].meets(0.4, 0.5)
    assert METRICS["mean_absolute_error"].meets(0.4, 0.5)
    assert not METRICS["mean_absolute_error"].meets(0.6, 0.5)


def test_each_task_has_its_metrics() -> None:
    assert "log_loss" in [one.name for one in metrics_of(Task.BINARY)]
    assert metrics_of(Task.BINARY) == metrics_of(Task.MULTICLASS)
    assert {one.name for one in metrics_of(Task.REGRESSION)} == {*metrics(Task.REGRESSION)}
    assert {one.name for one in metrics_of(Task.BINARY)} == {*metrics(Task.BINARY)}
    assert [metrics_of(task)[-1].name for task in (Task.BINARY, Task.REGRESSION)] == [
        "log_loss",
        "root_mean_squared_error",
    ]


def test_a_label_that_is_not_a_class_has_no_position() -> None:
    assert codes(np.array(["a", "x"], object), CLASSES).tolist() == [1, -1]
