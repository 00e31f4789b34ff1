"""Candidates: said to be wrong before anything is trained, and built as the file says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_assets.model_spec import CandidateSpec, ModelSpec, Task
from platform_assets.training.boosting import unwrap_learner
from platform_assets.training.candidates import (
    CandidateError,
    build,
    check_candidates,
    expand,
    parameters,
)
from platform_assets.training.estimators import CLASSIFIERS, REGRESSORS
from platform_assets.training.probe import probe
from tests.support.servers import ROOT
from tests.support.tabular import CLASSES, mixed_rows, mixed_spec


def _spec(*candidates: CandidateSpec, task: Task = Task.BINARY) -> ModelSpec:
    classes = () if task is Task.REGRESSION else CLASSES["two texts"]
    return mixed_spec(task, classes, candidates=candidates)


def _function(name: str, **grid: tuple[Any, ...]) -> CandidateSpec:
    return CandidateSpec(function=f"tests.support.estimators:{name}", grid=grid)


def test_a_grid_becomes_a_candidate_per_point_with_a_name_of_its_own() -> None:
    grid = {"max_depth": (2, None), "n_estimators": (5, 7)}
    found = expand(_spec(CandidateSpec("random_forest", grid=grid), CandidateSpec("extra_trees")))
    assert [one.name for one in found] == [
        "random_forest max_depth=2 n_estimators=5",
        "random_forest max_depth=2 n_estimators=7",
        "random_forest max_depth=None n_estimators=5",
        "random_forest max_depth=None n_estimators=7",
        "extra_trees",
    ]
    spec = _spec(CandidateSpec("random_forest", grid=grid))
    described = parameters(build(expand(spec)[1], spec))
    assert described["max_depth"] == "2"
    assert described["n_estimators"] == "7"
    assert described["random_state"] == str(spec.evaluation.seed)


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (
            [CandidateSpec("extra_trees"), CandidateSpec("decision_tree", grid={"depth": (1,)})],
            r"candidates\[1\] \(decision_tree\): no parameter depth; choose from .*max_depth",
        ),
        ([CandidateSpec("decision_tree", grid={"random_state": (1,)})], "no parameter random"),
        (
            [CandidateSpec("extra_trees"),
             CandidateSpec("decision_tree", grid={"max_depth": tuple(range(1, 65))})],
            r"candidates\[1\].* 64 grid points there are 65 candidates; at most 64",
        ),
        ([CandidateSpec(function="tests.no_such:scaled")], "no module tests.no_such"),
        ([CandidateSpec(function="no_package.at_all:scaled")], "cannot be imported"),
    ],
)  # fmt: skip
def test_a_wrong_candidate_is_named_before_there_are_data(
    candidates: list[CandidateSpec], said: str
) -> None:
    with pytest.raises(CandidateError, match=said):
        check_candidates(_spec(*candidates))


def test_a_package_that_ends_the_process_is_named_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ends_the_process"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CandidateError, match=r"cannot be imported: SystemExit\(3\)"):
        check_candidates(_spec(CandidateSpec(function="ends_the_process.models:forest")))


@pytest.mark.slow
def test_a_definition_is_checked_without_the_libraries_of_training() -> None:
    code = (
        "import sys\n"
        "from platform_assets.training.assets import training_assets\n"
        "from platform_assets.training.candidates import check_candidates\n"
        "from platform_assets.training.checks import training_checks\n"
        "from platform_assets.training.metrics import metrics_of\n"
        "from tests.support.models import IRIS\n"
        "check_candidates(IRIS), training_assets(IRIS), training_checks(IRIS)\n"
        "print([one.name for one in metrics_of(IRIS.task)])\n"
        "heavy = {'sklearn', 'pandas', 'mlflow', 'onnx', 'skl2onnx', 'pyarrow', 'feast'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    metrics, heavy = ran.stdout.splitlines()
    assert heavy == "[]"
    assert "roc_auc" in metrics


@pytest.mark.parametrize(
    ("task", "table"), [(Task.BINARY, CLASSIFIERS), (Task.REGRESSION, REGRESSORS)]
)
def test_every_parameter_that_a_grid_may_set_exists(task: Task, table: Any) -> None:
    for name, entry in table.items():
        spec = _spec(CandidateSpec(name), task=task)
        model = unwrap_learner(build(expand(spec)[0], spec).named_steps["model"])
        # Both libraries take the names of their own documentation besides.
        assert entry.parameters <= {*model.get_params(), "alpha", "quantile_alpha"}, name
        assert not entry.parameters & {"random_state", "n_jobs", "verbose", "warm_start"}


@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_histogram_boosting_holds_no_rows_out_unless_a_grid_says_so(task: Task) -> None:
    for grid, held_out in (({}, False), ({"early_stopping": (True,)}, True)):
        spec = _spec(CandidateSpec("hist_gradient_boosting", grid=grid), task=task)
        model = build(expand(spec)[0], spec).named_steps["model"]
        assert model.get_params()["early_stopping"] is held_out


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (_function("nowhere"), "tests.support.estimators:nowhere cannot be imported"),
        (_function("NUMBER"), "is not a function"),
        (_function("failing"), r"function failed: RuntimeError\('no such thing'\)"),
        (_function("leaving"), r"function failed: SystemExit\(3\)"),
        (_function("unreadable"), "returned <Unreadable instance at .*, which is not an unfitted"),
        (_function("many"), r"returned .{,200}\.\.\.\], which is not an unfitted"),
        (_function("a_class"), "not an unfitted scikit-learn estimator"),
        (_function("without_probabilities"), "with fit, predict, .*predict_proba"),
        (_function("scaled", depth=(1,)), r"candidates\[0\] .*depth"),
        (_function("homemade"), "cannot become an ONNX model: Homemade has no ONNX converter"),
        (_function("categorical"), "over categorical features has no ONNX converter"),
        (CandidateSpec("decision_tree", grid={"max_depth": (2, "deep")}), "max_depth=deep: .*must"),
        (CandidateSpec("random_forest", grid={"n_estimators": ("many",)}), "n_estimators=many"),
    ],
)
def test_what_only_the_library_knows_is_said_before_training(
    candidate: CandidateSpec, said: str
) -> None:
    spec = _spec(CandidateSpec("extra_trees"), candidate)
    check_candidates(spec)
    with pytest.raises(CandidateError, match=said.replace("[0", "[1")):
        probe(expand(spec), mixed_rows(spec), spec, spec.target.classes, print)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [("tuned", "with another answer"), ("isotonic", r"probabilities by up to 0\.")],
)
def test_a_candidate_whose_graph_answers_otherwise_is_refused_before_the_training(
    name: str, said: str
) -> None:
    spec = _spec(_function(name))
    with pytest.raises(CandidateError, match=said):
        probe(expand(spec), mixed_rows(spec), spec, spec.target.classes, print)


@pytest.mark.parametrize("name", [*CLASSIFIERS, "function"])
def test_ties_among_few_rows_refuse_no_candidate_of_the_platform(name: str) -> None:
    spec = _spec(_function("bagged") if name == "function" else CandidateSpec(name))
    probe(expand(spec), mixed_rows(spec), spec, spec.target.classes, pytest.fail)


@pytest.mark.parametrize("name", REGRESSORS)
def test_the_probe_refuses_no_regressor_of_the_platform(name: str) -> None:
    spec = _spec(CandidateSpec(name), task=Task.REGRESSION)
    probe(expand(spec), mixed_rows(spec), spec, (), pytest.fail)


def test_a_function_s_estimator_gets_the_grid_and_the_seed() -> None:
    spec = _spec(_function("bagged", n_estimators=(3,), estimator__max_depth=(2,)))
    described = parameters(build(expand(spec)[0], spec))
    assert described["n_estimators"] == "3"
    assert described["estimator__max_depth"] == "2"
    assert described["random_state"] == described["estimator__random_state"]
    assert described["random_state"] == str(spec.evaluation.seed)


def test_failing_on_a_few_rows_alone_is_not_a_verdict() -> None:
    spec = _spec(CandidateSpec("linear_discriminant", grid={"solver": ("svd",)}))
    rows = mixed_rows(spec, count=3)
    said: list[str] = []
    probe(expand(spec), rows.take(rows.labels == "yes"), spec, spec.target.classes, said.append)
    assert len(said) == 1
    assert "the training will show whether it works" in said[0]
