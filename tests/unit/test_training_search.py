"""The competition and the search: failures stay alone, trials are bounded and the same again."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from platform_assets.model_spec import CandidateSpec, ModelSpec, Range, Search, Task
from platform_assets.training.candidates import (
    Candidate,
    CandidateError,
    build,
    check_candidates,
    expand,
)
from platform_assets.training.competition import Competition, Judge, PrunedError
from platform_assets.training.estimators import CLASSIFIERS, REGRESSORS
from platform_assets.training.rows import Rows, TrainingError
from platform_assets.training.search import search
from platform_assets.training.search_spaces import space_of
from platform_assets.training.train import fit_best
from tests.support.tabular import CLASSES, mixed_rows, mixed_spec

pytestmark = pytest.mark.slow

RANGES = {"max_depth": Range(1, 12, log=True), "min_impurity_decrease": Range(0.0, 0.1)}
TREE = CandidateSpec("decision_tree", ranges=RANGES)


def _spec(*candidates: CandidateSpec, **limits: Any) -> ModelSpec:
    return mixed_spec(
        Task.BINARY, CLASSES["two texts"], candidates=candidates, search=Search(**limits)
    )


class Runs:
    """Stands for MLflow: what each child run recorded, and how it ended."""

    def __init__(self) -> None:
        self.recorded: dict[str, dict[str, Any]] = {}
        self.status: dict[str, str] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        recorded = self.recorded.setdefault(name, {})

        class Run:
            def record(self, **what: Mapping[str, Any]) -> None:
                recorded.update(what)

        self.status[name] = "FAILED"
        yield Run()
        self.status[name] = "FINISHED"


def _competition(spec: ModelSpec, rows: Rows | None = None) -> tuple[Competition, Runs, list[str]]:
    runs, said = Runs(), list[str]()
    rows = rows or mixed_rows(spec, count=300)
    found = Competition(rows, spec, spec.target.classes, runs.open, said.append)
    return found, runs, said


def _enter_all(competition: Competition, spec: ModelSpec) -> None:
    for one in expand(spec):
        competition.enter(one, "candidate")


def test_a_candidate_that_fails_on_one_fold_fails_alone_and_says_on_which() -> None:
    known = CandidateSpec(pipeline="tests.support.pipelines:of_known_texts")
    spec = _spec(known, CandidateSpec("decision_tree"))
    rows = mixed_rows(spec, count=300)
    cities = rows.features["city"].to_numpy(copy=True)
    cities[7] = "only here"
    rows = dataclasses.replace(rows, features=rows.features.assign(city=cities))
    competition, runs, said = _competition(spec, rows)

    _enter_all(competition, spec)

    ((name, reason),) = competition.failures.items()
    assert name == known.name
    assert reason.startswith("fold ")
    assert "LogisticRegression was fitted, but cannot answer: Found unknown categories" in reason
    assert list(competition.results) == ["decision_tree"]
    assert runs.status == {name: "FAILED", "decision_tree": "FINISHED"}
    assert runs.recorded[name]["tags"]["mlflow.note.content"] == reason
    assert any(f"{name}, is out: {reason}" in line for line in said)


def test_a_candidate_s_error_is_told_at_no_length_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    spec = _spec(CandidateSpec(function="tests.support.estimators:telling"))
    competition, runs, said = _competition(spec)

    _enter_all(competition, spec)

    ((name, reason),) = competition.failures.items()
    told = [reason, runs.recorded[name]["tags"]["mlflow.note.content"], *said]
    assert "no answer of https://***@store xxx" in reason
    assert not any("hush" in one or len(one) > 4100 for one in told)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("shape", r"the shape \(100, 1\), not"),
        ("nan", "hold NaN or infinity"),
        ("classes", "other"),
    ],
)
def test_a_candidate_without_usable_probabilities_fails_alone(how: str, said: str) -> None:
    undecided = CandidateSpec(function="tests.support.estimators:undecided", grid={"how": (how,)})
    spec = _spec(undecided, CandidateSpec("decision_tree"))
    competition, _, _ = _competition(spec)

    _enter_all(competition, spec)

    ((_, reason),) = competition.failures.items()
    assert re.search(rf"Undecided was fitted, but cannot answer: its .*{said}", reason)
    assert list(competition.results) == ["decision_tree"]


def test_the_next_best_takes_the_place_of_one_that_fails_on_all_rows() -> None:
    """And where none is left, the reasons are all there."""
    fussy = CandidateSpec(function="tests.support.estimators:fussy")
    spec = _spec(fussy, CandidateSpec("decision_tree", grid={"max_depth": (1,)}))
    rows = mixed_rows(spec, count=290)
    learned, held_out = rows.take(np.arange(210)), rows.take(np.arange(210, 290))
    competition, _, said = _competition(spec, learned)
    _enter_all(competition, spec)
    assert not competition.failures, "140 rows of a fold are not too many"
    competition.results[fussy.name]["cv_accuracy"] = 1.0

    fitted = fit_best(competition, learned, held_out, spec, spec.target.classes, said.append)

    assert fitted.candidate == "decision_tree max_depth=1"
    assert competition.failures[fussy.name].startswith("all training rows: Fussy cannot")
    del competition.results[fitted.candidate]
    with pytest.raises(TrainingError, match=r"no candidate can be used:\n.*too many"):
        fit_best(competition, learned, held_out, spec, spec.target.classes, said.append)


def test_the_search_finds_better_parameters_and_the_same_ones_again() -> None:
    stump = CandidateSpec("decision_tree", grid={"max_depth": (1,)})
    spec = _spec(stump, TREE)
    found = []
    for _ in range(2):
        competition, runs, said = _competition(spec)
        competition.enter(expand(spec)[0], "candidate 1")
        candidates = expand(spec)[1:]
        report = search(candidates, Search(trials=6), spec, competition.enter, said.append)
        assert report.begun == report.finished + report.ended_early == 6
        assert set(runs.status.values()) == {"FINISHED"}
        found.append({name: one["cv_accuracy"] for name, one in competition.results.items()})
    assert found[0] == found[1]
    assert max(found[0], key=found[0].__getitem__).startswith("decision_tree trial ")
    for name, one in competition.candidates.items():
        if " trial " in name:
            depth, decrease = (one.parameters[key] for key in RANGES)
            assert isinstance(depth, int)
            assert 1 <= depth <= 12
            assert 0 <= float(decrease or 0) <= 0.1
            assert build(one, spec).named_steps["model"].max_depth == depth
    assert said[-1].endswith("0 failed")


def _simulated(
    value: float, folds: int = 3, judged: list[str] | None = None, clock: list[float] | None = None
) -> Any:
    """A competition in which each trial's metric falls, and each fold takes a minute."""
    number = 0

    def enter(one: Candidate, place: str, judge: Judge) -> float | None:
        nonlocal number
        number += 1
        for fold in range(1, folds + 1):
            if clock is not None:
                clock[0] += 60
            try:
                judge(fold, value - number)
            except PrunedError as reason:
                if judged is not None:
                    judged.append(f"{place}: {reason}")
                return None
        return None if number == 2 else value - number

    return enter


def test_a_trial_worse_than_the_median_ends_early() -> None:
    judged: list[str] = []
    spec = _spec(TREE)
    report = search(expand(spec), Search(trials=9), spec, _simulated(1, judged=judged), print)
    assert (report.begun, report.failed) == (9, 1)
    assert report.ended_early == len(judged) == 3, "five have to finish, and one failed"
    assert judged[0].startswith("trial 7 of 9: worse than the median of other trials after fold 1")


def test_the_minutes_end_a_search_within_a_trial_and_say_so() -> None:
    said: list[str] = []
    judged: list[str] = []
    now, spec = [0.0], _spec(TREE)
    report = search(
        expand(spec), Search(trials=50, minutes=4.5), spec,
        _simulated(1, judged=judged, clock=now), said.append, lambda: now[0],
    )  # fmt: skip
    assert (report.begun, report.finished, report.ended_early) == (2, 1, 1)
    assert judged == ["trial 2 of 50: the minutes of the search are over"]
    assert said[-1].endswith("the 4.5 minutes were over")


def test_a_trial_that_ends_early_is_no_failure() -> None:
    spec = _spec(TREE)
    competition, runs, said = _competition(spec)

    def judge(folds: int, mean: float) -> None:
        assert 0 < mean < 1
        raise PrunedError(f"no hope after {folds}")

    assert competition.enter(expand(spec)[0], "trial 1", judge) is None
    assert not competition.results
    assert not competition.failures
    assert runs.status == {"decision_tree": "FINISHED"}
    assert runs.recorded["decision_tree"]["tags"]["mlflow.note.content"] == "no hope after 1"
    assert said == ["trial 1, decision_tree, ended early: no hope after 1"]


@pytest.mark.parametrize(
    ("task", "table"), [(Task.BINARY, CLASSIFIERS), (Task.REGRESSION, REGRESSORS)]
)
def test_the_platform_s_ranges_are_of_parameters_that_exist(task: Task, table: Any) -> None:
    without = {name for name in table if not space_of(CandidateSpec(name))}
    assert without <= {"linear_discriminant", "linear_regression"}
    for name, entry in table.items():
        assert set(space_of(CandidateSpec(name))) <= entry.parameters, name


def test_a_search_without_optuna_is_refused_and_the_extra_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda one, *rest: None if one == "optuna" else find(one, *rest),
    )
    with pytest.raises(CandidateError, match=r"search: optuna cannot be .*`boosting`"):
        check_candidates(_spec(TREE))
