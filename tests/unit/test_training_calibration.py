"""Calibrated probabilities: by rows not learned from, in the graph as in scikit-learn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from platform_assets.model_spec import (
    BALANCED,
    Calibration,
    CandidateSpec,
    ModelSpec,
    Split,
    Task,
)
from platform_assets.training.calibration import limit_slopes, set_folds
from platform_assets.training.candidates import build, expand, parameters
from platform_assets.training.probe import probe
from platform_assets.training.selection import evaluate
from platform_assets.training.thresholds import with_threshold
from tests.support.parity import fitted_candidate, graph_parity
from tests.support.skops_files import restored, stored
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec

SMALL: dict[str, dict[str, tuple[int]]] = {
    "random_forest": {"n_estimators": (10,)},
    "gradient_boosting": {"n_estimators": (10,)},
    "hist_gradient_boosting": {"max_iter": (10,)},
}
BOTH = (*Calibration,)
CASES = [
    *((name, method, "booleans") for name in (*SMALL, "logistic_regression") for method in BOTH),
    *((name, Calibration.ISOTONIC, "texts") for name in SMALL),
    ("logistic_regression", Calibration.SIGMOID, "integers"),
    ("linear_discriminant", Calibration.ISOTONIC, "two texts"),
    ("linear_discriminant", Calibration.SIGMOID, "integers"),
    ("decision_tree", Calibration.ISOTONIC, "two texts"),
]


def _spec(estimator: str, method: Calibration, classes: str, **changes: Any) -> ModelSpec:
    task = Task.BINARY if len(CLASSES[classes]) == 2 else Task.MULTICLASS
    candidate = CandidateSpec(estimator, grid=SMALL.get(estimator, {}))
    return mixed_spec(
        task, CLASSES[classes], candidates=(candidate,), calibration=method, **changes
    )


@pytest.mark.parametrize(("estimator", "method", "classes"), CASES)
def test_every_row_is_answered_alike(estimator: str, method: Calibration, classes: str) -> None:
    spec = _spec(estimator, method, classes)
    model = fitted_candidate(spec, mixed_rows(spec, 400))
    assert isinstance(model.named_steps["model"], CalibratedClassifierCV)
    parity, outputs = graph_parity(model, spec, mixed_frame(1_500, 9, wild=True), 2e-5)
    assert parity.holds, parity
    assert len(np.unique(outputs["label"])) == len(spec.target.classes)


def test_a_threshold_is_one_of_calibrated_probabilities() -> None:
    spec = _spec("hist_gradient_boosting", Calibration.SIGMOID, "two texts")
    calibrated = fitted_candidate(spec, mixed_rows(spec))
    model = with_threshold(calibrated, 0.2, spec.target.classes)
    parity, outputs = graph_parity(model, spec, mixed_frame(1_500, 9), threshold=0.2)
    assert parity.holds, parity
    assert (outputs["label"] == "yes").tolist() == (outputs["probabilities"][:, 1] >= 0.2).tolist()


def test_calibration_undoes_what_class_weights_do_to_probabilities() -> None:
    plain = mixed_spec(
        Task.BINARY, CLASSES["booleans"], candidates=(CandidateSpec("logistic_regression"),)
    )
    weighted = dataclasses.replace(plain, class_weight={True: 20.0})
    rows, asked = mixed_rows(plain), mixed_rows(plain, seed=7)
    share = float(asked.labels.mean())
    stated = []
    for spec in (weighted, dataclasses.replace(weighted, calibration=Calibration.SIGMOID)):
        found = evaluate(fitted_candidate(spec, rows), asked, spec, (False, True))
        stated.append(float(np.asarray(found.answers.probabilities)[:, 1].mean()))
        assert np.isfinite(found.metrics["brier"])
    assert stated[0] > share + 0.2
    assert stated[1] == pytest.approx(share, abs=0.05)


def test_a_calibration_counts_rows_by_their_column() -> None:
    """Rows that count for nothing decide on nothing, not even on the calibration."""
    spec = _spec("logistic_regression", Calibration.SIGMOID, "booleans")
    rows = mixed_rows(spec)
    turned = rows.take(np.arange(300))
    both = dataclasses.replace(
        rows,
        labels=np.where(np.arange(600) < 300, rows.labels, 1 - rows.labels),
        weights=(np.arange(600) < 300).astype(float),
    )
    found = fitted_candidate(spec, both).predict_proba(turned.features)[:, 1]
    assert np.mean((found - turned.labels) ** 2) < 0.15


@pytest.mark.parametrize("split", [Split.ENTITY, Split.TIME])
def test_every_row_is_scored_by_what_did_not_learn_from_its_part(split: Split) -> None:
    spec = _spec("logistic_regression", Calibration.SIGMOID, "booleans")
    spec = dataclasses.replace(
        spec, evaluation=dataclasses.replace(spec.evaluation, split=split, folds=4)
    )
    rows = mixed_rows(spec, 200)
    rows = dataclasses.replace(rows, groups=rows.groups // 2)
    model = build(expand(spec)[0], spec).named_steps["model"]
    set_folds(model, rows, spec)
    assert len(model.cv) == 4
    assert sorted(np.concatenate([test for _, test in model.cv]).tolist()) == list(range(200))
    for learn, test in model.cv:
        assert not set(learn) & set(test)
        if split is Split.ENTITY:
            assert not set(rows.groups[learn]) & set(rows.groups[test])
        else:
            assert np.ptp(test) == len(test) - 1, "neighbours in time"


def test_a_model_keeps_no_rows_and_loads_as_it_was() -> None:
    spec = _spec("random_forest", Calibration.ISOTONIC, "texts")
    rows = mixed_rows(spec)
    model = fitted_candidate(spec, rows)
    assert model.named_steps["model"].cv == 3
    for one in model.named_steps["model"].calibrated_classifiers_[0].calibrators:
        assert (np.diff(one.y_thresholds_) / np.diff(one.X_thresholds_)).max() < 100.001
    kept = restored(stored(model))
    assert np.array_equal(kept.predict_proba(rows.features), model.predict_proba(rows.features))


def test_an_isotonic_function_rises_no_faster_than_single_precision_follows() -> None:
    random = np.random.default_rng(0)
    scores = np.round(random.random(500), 3)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, random.random(500) < scores)
    places, values = limit_slopes(fitted.X_thresholds_, fitted.y_thresholds_)
    assert (np.diff(values) / np.diff(places)).max() <= 100 * (1 + 1e-9)
    assert (np.diff(fitted.y_thresholds_) / np.diff(fitted.X_thresholds_)).max() > 200
    asked = np.linspace(0, 1, 5_000)
    limited = np.interp(asked, places, values)
    before = fitted.predict(asked)
    assert (limited <= before + 1e-12).all()
    assert np.abs(limited - before).mean() < 0.005
    flat = limit_slopes(np.array([0.0, 1.0]), np.array([0.2, 0.9]))
    assert [one.tolist() for one in flat] == [[0.0, 1.0], [0.2, 0.9]]


def test_balanced_and_calibrated_candidates_pass_the_probe() -> None:
    names = ("logistic_regression", "random_forest", "hist_gradient_boosting")
    spec = mixed_spec(
        Task.BINARY,
        CLASSES["booleans"],
        candidates=tuple(map(CandidateSpec, names)),
        calibration=Calibration.ISOTONIC,
        class_weight=BALANCED,
    )
    said: list[str] = []
    probe(expand(spec), mixed_rows(spec, 200), spec, (False, True), said.append)
    assert said == []


@pytest.mark.parametrize(
    ("candidate", "method", "classes"),
    [
        (CandidateSpec("lightgbm", grid={"n_estimators": (10,)}), Calibration.SIGMOID, "booleans"),
        (CandidateSpec("lightgbm", grid={"n_estimators": (10,)}), Calibration.ISOTONIC, "texts"),
        (CandidateSpec("xgboost", grid={"n_estimators": (10,)}), Calibration.SIGMOID, "two texts"),
        (CandidateSpec("xgboost", grid={"n_estimators": (10,)}), Calibration.ISOTONIC, "integers"),
        (
            CandidateSpec(pipeline="tests.support.pipelines:of_all_types"),
            Calibration.SIGMOID,
            "two texts",
        ),
        (
            CandidateSpec(pipeline="tests.support.pipelines:of_codes"),
            Calibration.ISOTONIC,
            "two texts",
        ),
    ],
)
def test_any_estimator_is_weighted_calibrated_and_decided(
    candidate: CandidateSpec, method: Calibration, classes: str
) -> None:
    labels = CLASSES[classes]
    spec = mixed_spec(
        Task.BINARY if len(labels) == 2 else Task.MULTICLASS,
        labels,
        candidates=(candidate,),
        calibration=method,
        class_weight=BALANCED,
    )
    model = fitted_candidate(spec, mixed_rows(spec, 400))
    threshold = 0.3 if len(labels) == 2 else None
    if threshold is not None:
        model = with_threshold(model, threshold, labels)
    parity, outputs = graph_parity(model, spec, mixed_frame(1_000, 9), 2e-5, threshold)
    assert parity.holds, parity
    assert len(np.unique(outputs["label"])) == len(labels)
    assert not [name for name in parameters(model) if name.startswith("estimator")]


def test_a_threshold_of_xgboost_answers_with_labels() -> None:
    candidate = CandidateSpec("xgboost", grid={"n_estimators": (10,)})
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"], candidates=(candidate,))
    model = with_threshold(fitted_candidate(spec, mixed_rows(spec, 400)), 0.2, ("no", "yes"))
    parity, outputs = graph_parity(model, spec, mixed_frame(1_000, 9), threshold=0.2)
    assert parity.holds, parity
    assert set(outputs["label"]) == {"no", "yes"}
