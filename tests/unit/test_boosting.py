"""LightGBM and XGBoost: native categories and gaps, exact graphs, the same trees each time."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from platform_assets.export.conversion import export
from platform_assets.export.inspection import ExportError
from platform_assets.export.parity import Parity, compare
from platform_assets.export.runtime import answers_in, model_inputs, run_graph
from platform_assets.model_spec import CandidateSpec, ModelSpec, Task
from platform_assets.resources.mlflow_models import distributions
from platform_assets.training import boosting
from platform_assets.training.boosting import unwrap_learner
from platform_assets.training.candidates import CandidateError, build, check_candidates, expand
from platform_assets.training.rows import Rows
from platform_assets.training.selection import answers_of, fit
from tests.support.skops_files import restored, stored, untrusted_types
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
KINDS = pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])


def _spec(task: Task, candidate: CandidateSpec, **changes: Any) -> ModelSpec:
    classes = {Task.BINARY: "two texts", Task.MULTICLASS: "texts"}.get(task, "")
    return mixed_spec(task, CLASSES.get(classes, ()), candidates=(candidate,), **changes)


def _few(name: str, **parameters: Any) -> CandidateSpec:
    return CandidateSpec(name, grid={"n_estimators": (20,)} | parameters)


def _function(name: str) -> CandidateSpec:
    return CandidateSpec(function=f"tests.support.boosters:{name}")


def _fitted(spec: ModelSpec, rows: Rows) -> Any:
    return fit(build(expand(spec)[0], spec), rows, spec)[0]


def _parity(estimator: Any, spec: ModelSpec, frame: Any) -> Parity:
    signature = spec.signature(spec.target.classes)
    outputs = run_graph(export(estimator, signature, "mixed"), model_inputs(signature, frame))
    asked = Rows(frame, np.zeros(len(frame)), np.arange(len(frame)))
    expected = answers_of(estimator, asked, spec, spec.target.classes)
    return compare(*answers_in(outputs, signature), expected.labels, expected.probabilities, 1e-5)


def _trees(estimator: Any) -> Any:
    model = estimator.named_steps["model"]
    return getattr(model, "regressor_", model).booster_.dump_model()["tree_info"]


@pytest.mark.parametrize(
    ("task", "gaps"),
    [(Task.BINARY, True), (Task.MULTICLASS, False), (Task.REGRESSION, True)],
)
def test_lightgbm_splits_texts_by_sets_that_the_graph_knows(task: Task, gaps: bool) -> None:
    """Also where a gap is asked about that training never had."""
    spec = _spec(task, _few("lightgbm"))
    rows = mixed_rows(spec)
    many = np.array([f"city {number}" for number in range(60)], dtype=object)
    effect = np.random.default_rng(5).normal(size=60)
    city = np.arange(len(rows)) * 7 % 60
    frame = rows.features.assign(city=many[city])
    if not gaps:
        frame = frame.fillna(0.0)
    labels = rows.labels
    if task is Task.REGRESSION:
        labels = labels + 3000 * effect[city]
    elif task is Task.BINARY:
        labels = np.where(effect[city] > 0, "yes", "no").astype(object)
    estimator = _fitted(spec, dataclasses.replace(rows, features=frame, labels=labels))
    wanted = [tree for tree in _trees(estimator) if "'decision_type': '=='" in str(tree)]
    assert any("||" in str(tree) for tree in wanted), "else no set of texts was tested"
    asked = mixed_frame(1000, 9, wild=True)
    asked["city"] = np.append(many, "never seen")[np.arange(len(asked)) % 61]
    parity = _parity(estimator, spec, asked)
    assert parity.holds, parity


OBJECTIVES = [
    *(("lightgbm", {"objective": one}) for one in ("mape", "poisson")),
    ("lightgbm", {"objective": "quantile", "alpha": 0.1}),
    ("xgboost", {"objective": "reg:quantileerror", "quantile_alpha": 0.1}),
    ("xgboost", {"objective": "count:poisson"}),
    ("xgboost", {"grow_policy": "lossguide", "max_leaves": 9, "subsample": 0.6}),
]


@pytest.mark.parametrize(("name", "parameters"), OBJECTIVES)
def test_regressions_of_other_objectives_are_answered_alike(
    name: str, parameters: dict[str, Any]
) -> None:
    grid = {key: (value,) for key, value in parameters.items()}
    spec = _spec(Task.REGRESSION, _few(name, **grid))
    rows = mixed_rows(spec)
    rows = dataclasses.replace(rows, labels=np.exp(rows.labels / rows.labels.std()))
    estimator = _fitted(spec, rows)
    assert _parity(estimator, spec, mixed_frame(1000, 9, wild=True)).holds
    model = estimator.named_steps["model"]
    moved = parameters.get("objective") not in {"mape", "poisson", "count:poisson"}
    assert (unwrap_learner(model) is not model) is moved, "these depend on how far zero is"
    if parameters.get("alpha") or parameters.get("quantile_alpha"):
        below = (rows.labels < estimator.predict(rows.features)).mean()
        assert below < 0.2, "the tenth part, about"


@BOTH
def test_any_number_of_threads_grows_the_same_trees(name: str) -> None:
    spec = _spec(Task.REGRESSION, _few(name))
    more = dataclasses.replace(spec, evaluation=dataclasses.replace(spec.evaluation, threads=2))
    rows = mixed_rows(spec)
    one, two = (_fitted(each, rows) for each in (spec, more))
    assert np.array_equal(one.predict(rows.features), two.predict(rows.features))
    chosen = unwrap_learner(two.named_steps["model"]).get_params()
    assert chosen["n_jobs"] == 2
    assert name == "xgboost" or (chosen["deterministic"] and chosen["force_row_wise"])


def test_leaves_of_the_user_s_own_lightgbm_keep_their_digits() -> None:
    spec = _spec(Task.REGRESSION, _function("years"))
    rows = mixed_rows(spec)
    rows = dataclasses.replace(rows, labels=2008 + rows.labels / rows.labels.std())
    parity = _parity(_fitted(spec, rows), spec, rows.features)
    assert parity.holds, parity


@BOTH
@KINDS
def test_what_mlflow_keeps_loads_without_this_package(name: str, task: Task) -> None:
    spec = _spec(task, _few(name))
    estimator, asked = _fitted(spec, mixed_rows(spec)), mixed_frame(200, 3)
    data = stored(estimator)
    types = untrusted_types(data)
    assert {one.partition(".")[0] for one in types} <= {
        "collections", "lightgbm", "numpy", "scipy", "sklearn", "xgboost",
    }  # fmt: skip
    assert any(one.startswith(name) for one in distributions(types))
    loaded = restored(data)
    assert np.array_equal(loaded.predict(asked), estimator.predict(asked))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("linear_leaves", "LightGBM with linear_tree has no exact"),
        ("light_forest", "LightGBM with boosting_type=rf has no exact"),
        ("missing_zeros", "LightGBM with zero_as_missing has no exact"),
        ("cross_entropy", "LightGBM with the objective multiclassova has no exact"),
        ("dropped_trees", "XGBoost with booster=dart has no exact"),
        ("moved_and_scaled", "TransformedTargetRegressor has no ONNX converter"),
    ],
)
def test_variants_that_convert_wrongly_are_refused(function: str, said: str) -> None:
    numbers = function == "dropped_trees"
    task = Task.REGRESSION if function == "moved_and_scaled" else Task.MULTICLASS
    classes = CLASSES["texts"] if not numbers else (0, 1, 2)
    spec = mixed_spec(
        task, () if task is Task.REGRESSION else classes, candidates=(_function(function),)
    )
    estimator = _fitted(spec, mixed_rows(spec, count=150))
    with pytest.raises(ExportError, match=said):
        export(estimator, spec.signature(spec.target.classes), "mixed")


def test_a_class_of_the_user_is_converted_as_the_learner_that_it_inherits_from() -> None:
    spec = _spec(Task.BINARY, _function("lightest"))
    rows = mixed_rows(spec)
    assert _parity(_fitted(spec, rows), spec, rows.features).holds


@BOTH
def test_without_the_library_a_model_file_is_refused_and_the_extra_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda one, *rest: None if one == name else find(one, *rest)
    )
    spec = _spec(Task.BINARY, CandidateSpec(name))
    with pytest.raises(CandidateError, match=rf"candidates\[0\] \({name}\): {name} cannot .*boos"):
        check_candidates(spec)


def test_a_library_that_does_not_load_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_openmp(**_: object) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(boosting, "light_classifier", without_openmp)
    spec = _spec(Task.BINARY, CandidateSpec("lightgbm"))
    with pytest.raises(CandidateError, match=r"candidates\[0\] .*libgomp.*; it needs OpenMP"):
        build(expand(spec)[0], spec)


def test_without_the_converters_a_learner_of_the_user_is_refused_and_the_extra_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = _spec(Task.BINARY, _function("lightest"))
    estimator = _fitted(spec, mixed_rows(spec))
    for one in [name for name in sys.modules if name.startswith("onnxmltools")]:
        monkeypatch.delitem(sys.modules, one)
    monkeypatch.setitem(sys.modules, "onnxmltools", None)
    with pytest.raises(ExportError, match=r"onnxmltools .* install the extra `boosting`"):
        export(estimator, spec.signature(spec.target.classes), "mixed")


def test_a_refusal_of_xgboost_is_one_line() -> None:
    spec = _spec(Task.REGRESSION, CandidateSpec("xgboost", grid={"objective": ("reg:gamma",)}))
    with pytest.raises(Exception, match=r"XGBRegressor cannot be fitted: .*label") as found:
        _fitted(spec, mixed_rows(spec))
    assert "\n" not in str(found.value)
