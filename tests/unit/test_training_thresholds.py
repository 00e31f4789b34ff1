"""A threshold that the folds choose, in the answers, the graph, the records and the pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score

from platform_assets.export.parity import compare
from platform_assets.model_spec import CandidateSpec, Evaluation, Split, Task, Threshold
from platform_assets.resources.evaluation import read_evaluation, write_evaluation
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.version_files import Provenance
from platform_assets.training.candidates import build, expand
from platform_assets.training.folds import folds
from platform_assets.training.metrics import Answers
from platform_assets.training.pictures import confusion_picture, curves_picture
from platform_assets.training.rows import TrainingError
from platform_assets.training.selection import (
    CHOSEN_THRESHOLD,
    answers_of,
    cross_validate,
    evaluate,
)
from platform_assets.training.thresholds import apply_threshold, choose_threshold, with_threshold
from tests.support.parity import fitted_candidate, graph_parity
from tests.support.skops_files import restored, stored
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec

NAMES = ("no", "yes")


def _answers(seed: int = 0, rows: int = 400, classes: tuple[Any, ...] = NAMES) -> Answers:
    """One row in ten is of the second class, and probabilities say so somewhat."""
    random = np.random.default_rng(seed)
    positive = random.random(rows) < 0.1
    stated = np.round(1 / (1 + np.exp(3 - 2 * positive - random.normal(size=rows))), 2)
    labels = np.array(classes, dtype=object)
    return Answers(
        labels[positive.astype(int)],
        labels[(stated > 0.5).astype(int)],
        np.c_[1 - stated, stated],
        classes,
    )


def _pooled(parts: list[Answers]) -> tuple[Any, Any]:
    true = np.concatenate([one.label_true for one in parts]) == "yes"
    return true, np.concatenate([np.asarray(one.probabilities)[:, 1] for one in parts])


PARTS = [_answers(1), _answers(2, 250)]


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy"])
def test_a_threshold_is_the_best_of_all_that_differ(name: str) -> None:
    true, stated = _pooled(PARTS)
    measure = {"f1": f1_score, "balanced_accuracy": balanced_accuracy_score}[name]
    found = choose_threshold(Threshold(maximize=name), PARTS)  # type: ignore[arg-type] # pydantic makes it one
    best = max(measure(true, stated >= one) for one in np.unique(stated))
    assert measure(true, stated >= found) == pytest.approx(best)
    assert best > measure(true, stated >= 0.5) + 0.05
    assert np.abs(stated - found).min() > 1e-4, "no probability lies on it"


def test_the_most_rows_are_found_with_the_precision_that_is_wanted() -> None:
    true, stated = _pooled(PARTS)
    found = choose_threshold(Threshold(precision_at_least=0.4), PARTS)
    reached = {
        one: recall_score(true, stated >= one)
        for one in np.unique(stated)
        if precision_score(true, stated >= one) >= 0.4
    }
    assert precision_score(true, stated >= found) >= 0.4
    assert recall_score(true, stated >= found) == max(reached.values())


def test_the_highest_precision_is_chosen_that_finds_enough_rows() -> None:
    true, stated = _pooled(PARTS)
    found = choose_threshold(Threshold(recall_at_least=0.8), PARTS)
    reached = {
        one: precision_score(true, stated >= one)
        for one in np.unique(stated)
        if recall_score(true, stated >= one) >= 0.8
    }
    assert recall_score(true, stated >= found) >= 0.8
    assert precision_score(true, stated >= found) == max(reached.values())


def test_a_precision_that_nothing_reaches_is_refused_with_the_highest() -> None:
    mixed = _answers(3)
    stated = np.asarray(mixed.probabilities)[:, 1]
    reverse = np.array(NAMES, object)[(stated < np.median(stated)).astype(int)]
    wrong = dataclasses.replace(mixed, label_true=reverse)
    with pytest.raises(TrainingError, match=r"precision of 0.99 on .*; the highest is 0\.\d+:"):
        choose_threshold(Threshold(precision_at_least=0.99), [wrong])
    one_class = dataclasses.replace(mixed, label_true=np.array(["no"] * 400, object))
    with pytest.raises(TrainingError, match="one class only"):
        choose_threshold(Threshold(maximize="f1"), [one_class])  # type: ignore[arg-type] # pydantic makes it one


def test_candidates_are_compared_by_the_answers_of_their_threshold() -> None:
    plain = mixed_spec(
        Task.BINARY,
        (False, True),
        candidates=(CandidateSpec("logistic_regression"),),
        evaluation=Evaluation("balanced_accuracy", folds=3, split=Split.ENTITY),
    )
    spec = dataclasses.replace(plain, threshold=Threshold(maximize="balanced_accuracy"))  # type: ignore[arg-type] # pydantic makes it one
    rows = mixed_rows(spec, 600)
    rare = rows.labels.copy()
    rare[(rows.features["weight"] < 80).to_numpy()] = 0
    rows = dataclasses.replace(rows, labels=rare)
    scored = [
        cross_validate(build(expand(one)[0], one), rows, folds(rows, one), one, (False, True))[0]
        for one in (plain, spec)
    ]
    assert CHOSEN_THRESHOLD not in scored[0]
    assert 0 < scored[1][CHOSEN_THRESHOLD] < 0.5
    assert scored[1]["cv_balanced_accuracy"] > scored[0]["cv_balanced_accuracy"] + 0.02
    assert scored[1]["cv_log_loss"] == scored[0]["cv_log_loss"], "of probabilities"


@pytest.mark.parametrize("classes", ["booleans", "two texts", "integers"])
@pytest.mark.parametrize("estimator", ["logistic_regression", "hist_gradient_boosting"])
def test_labels_of_the_graph_follow_the_threshold(classes: str, estimator: str) -> None:
    candidate = CandidateSpec(
        estimator, grid={"max_iter": (10,)} if estimator.startswith("hist") else {}
    )
    spec = mixed_spec(Task.BINARY, CLASSES[classes][:2], candidates=(candidate,))
    plain = fitted_candidate(spec, mixed_rows(spec))
    model = with_threshold(plain, 0.17, spec.target.classes)
    asked = mixed_frame(1_500, 9, wild=True)
    parity, outputs = graph_parity(model, spec, asked, threshold=0.17)
    assert parity.holds, parity
    assert parity.rows_tied < 15
    _, before = graph_parity(plain, spec, asked)
    assert np.abs(outputs["probabilities"] - before["probabilities"]).max() < 1e-7
    expected = outputs["probabilities"][:, 1] >= 0.17
    positive = spec.target.classes[1]
    assert (outputs["label"] == positive).tolist() == expected.tolist()
    assert (before["label"] == positive).sum() < expected.sum()


def test_answers_by_a_threshold_are_those_of_the_model_that_is_kept() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["booleans"])
    rows = mixed_rows(spec)
    plain = fitted_candidate(spec, rows)
    model = with_threshold(plain, 0.3, spec.target.classes)
    kept = restored(stored(model))
    expected = apply_threshold(answers_of(plain, rows, spec, spec.target.classes), 0.3)
    for one in (model, kept):
        found = evaluate(one, rows, spec, spec.target.classes).answers
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.probabilities, expected.probabilities)  # type: ignore[arg-type] # not None


def test_only_rounding_at_the_threshold_decides_a_tie() -> None:
    stated = np.array([[0.70001, 0.29999], [0.5, 0.5], [0.2, 0.8]])
    labels = np.array([0, 1, 1])
    near = compare(np.array([1, 1, 1]), stated, labels, stated, 1e-4, threshold=0.3)
    assert (near.holds, near.rows_tied) == (True, 1)
    elsewhere = compare(np.array([0, 0, 1]), stated, labels, stated, 1e-4, threshold=0.3)
    assert not elsewhere.holds, "likeliest classes that tie are no tie of the threshold"


def test_the_threshold_is_kept_with_the_evaluation_and_the_version() -> None:
    answers = _answers()
    frame = mixed_frame(400, 1)
    written = EvaluationSet(
        frame,
        answers.label_true,
        answers.labels,
        answers.probabilities,
        np.arange(400),
        threshold=0.23,
    )
    assert read_evaluation(write_evaluation(written)).threshold == 0.23
    without = dataclasses.replace(written, threshold=None)
    assert read_evaluation(write_evaluation(without)).threshold is None
    provenance = Provenance("m", 1, "r", "d", "f", "p", threshold=0.23)
    kept = msgspec.json.decode(msgspec.json.encode(provenance), type=Provenance)
    assert kept.threshold == 0.23


def test_pictures_state_the_threshold() -> None:
    answers = apply_threshold(_answers(), 0.2)
    for draw in (confusion_picture, curves_picture):
        marked, plain = draw(answers, NAMES, 0.2), draw(answers, NAMES)
        assert marked.startswith(b"\x89PNG")
        assert marked != plain
