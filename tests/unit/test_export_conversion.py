"""The exported graph answers as scikit-learn does: every candidate, every type, every oddity.

The long form (`FAULTS=long`) shows everything with every estimator. The quick one leaves out those
that are converted and added up as another is (extremely random trees as random forests, ridge as
linear regressions), and labels of two texts in the wild, which classifiers have in another test;
its ensembles are smaller.
Years as labels are met by three kinds of regressors in it; times since 1970, which are further from
zero, by all kinds.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.base import is_classifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from platform_assets.export.conversion import export
from platform_assets.export.inspection import ExportError, graph_contract, inspect_graph, sha256
from platform_assets.export.tree_converters import tree_classes
from platform_assets.export.triton_config import TensorSpec
from platform_assets.model_spec import CandidateSpec, FeatureSpec, ModelSpec, Target, Task
from platform_assets.training.candidates import build, expand
from platform_assets.training.estimators import CLASSIFIERS, REGRESSORS
from platform_assets.training.preprocessing import custom_pipeline
from platform_assets.training.rows import Rows
from serving_gateway.contract import DType, Feature
from tests.faults.scale import scale
from tests.support.models import IRIS
from tests.support.parity import fitted_candidate, graph_parity
from tests.support.servers import ROOT
from tests.support.tabular import CLASSES, mixed_frame, mixed_rows, mixed_spec

pytestmark = pytest.mark.slow

LONG = bool(scale(0, 1))


def _kinds(names: Iterable[str]) -> tuple[str, ...]:
    """The names of the estimators that the present form asks."""
    alike = () if LONG else ("extra_trees", "ridge")
    return tuple(name for name in names if name not in alike)


TWO_TEXTS = ("hist_gradient_boosting", "xgboost") if LONG else ()
CASES = [
    *((Task.MULTICLASS, name, "texts") for name in _kinds(CLASSIFIERS)),
    *((Task.BINARY, name, "booleans") for name in _kinds(CLASSIFIERS)),
    *((Task.BINARY, name, "two texts") for name in TWO_TEXTS),
    (Task.MULTICLASS, "random_forest", "integers"),
    (Task.MULTICLASS, "xgboost", "integers"),
    *((Task.REGRESSION, name, "") for name in _kinds(REGRESSORS)),
]


_WILD = scale(1200, 4000)
"""How many rows with what training never saw: in the quick form, two dozen of each oddity."""


_TREES = {
    "hist_gradient_boosting": "max_iter",
    **dict.fromkeys(
        ("random_forest", "extra_trees", "gradient_boosting", "lightgbm", "xgboost"),
        "n_estimators",
    ),
}
"""Ensemble -> its parameter for the number of trees."""


def _candidate(name: str, **parameters: Any) -> CandidateSpec:
    """An estimator with `parameters`; an ensemble is of 20 trees in the quick form."""
    grid = {parameter: (value,) for parameter, value in parameters.items()}
    if name in _TREES and not LONG:
        grid[_TREES[name]] = (20,)
    return CandidateSpec(name, grid=grid)


@cache
def _mixed(task: Task, name: str, classes: str = "") -> tuple[Any, ModelSpec]:
    """An estimator fitted to mixed rows, which no test may change, and its specification."""
    spec = mixed_spec(task, CLASSES.get(classes, ()), candidates=(_candidate(name),))
    return fitted_candidate(spec, mixed_rows(spec)), spec


@cache
def _regression_graph() -> bytes:
    """The graph of a tree fitted to mixed rows."""
    estimator, spec = _mixed(Task.REGRESSION, "decision_tree")
    return export(estimator, spec.signature(()), "mixed")


@pytest.mark.parametrize(("task", "name", "classes"), CASES)
def test_mixed_rows_are_answered_alike(task: Task, name: str, classes: str) -> None:
    """Missing values, texts never seen, numbers beyond single precision."""
    estimator, spec = _mixed(task, name, classes)
    parity, outputs = graph_parity(estimator, spec, mixed_frame(_WILD, 9, wild=True))
    assert parity.holds, parity
    assert parity.rows == _WILD
    answers = outputs["prediction" if task is Task.REGRESSION else "label"]
    assert len(np.unique(answers)) >= max(2, len(spec.target.classes)), "else nothing was tested"


@pytest.mark.parametrize(
    ("task", "name", "sparse", "width"),
    [
        (Task.MULTICLASS, "logistic_regression", True, 60),
        (Task.REGRESSION, "linear_regression", True, 60),
        (Task.REGRESSION, "ridge", True, 60),
        (Task.MULTICLASS, "linear_discriminant", False, 60),
        (Task.MULTICLASS, "random_forest", True, 60),
        (Task.REGRESSION, "extra_trees", True, 60),
        (Task.MULTICLASS, "decision_tree", False, 1),
        (Task.REGRESSION, "hist_gradient_boosting", False, 1),
    ],
)
def test_texts_of_many_categories_are_answered_alike(
    task: Task, name: str, sparse: bool, width: int
) -> None:
    """Linear models and forests are fitted to a sparse matrix, other trees to a narrow one."""
    classes = () if task is Task.REGRESSION else CLASSES["texts"]
    spec = mixed_spec(task, classes, candidates=(_candidate(name),))
    rows = mixed_rows(spec)
    many = np.array([f"city {number}" for number in range(60)], dtype=object)
    cities = many[np.arange(len(rows)) % len(many)]
    rows = dataclasses.replace(rows, features=rows.features.assign(city=cities))
    estimator = fitted_candidate(spec, rows)
    columns = estimator.named_steps["columns"]
    assert columns.sparse_output_ is sparse
    names = columns.get_feature_names_out()
    assert sum(name.startswith("city") for name in names) == width
    asked = mixed_frame(_WILD, 9, wild=True)
    asked["city"] = np.append(many, "never seen")[np.arange(len(asked)) % (len(many) + 1)]
    parity, _ = graph_parity(estimator, spec, asked)
    assert parity.holds, parity


@pytest.mark.parametrize("function", ["scaled", "discriminant", "bagged", "boosted"])
@pytest.mark.parametrize("classes", ["two texts", "integers"])
def test_estimators_of_functions_are_answered_alike(function: str, classes: str) -> None:
    candidate = CandidateSpec(function=f"tests.support.estimators:{function}")
    task = Task.BINARY if len(CLASSES[classes]) == 2 else Task.MULTICLASS
    spec = mixed_spec(task, CLASSES[classes], candidates=(candidate,))
    rows = mixed_rows(spec)
    narrow = rows.features.assign(distance=rows.features["distance"] - 1e6)
    rows = dataclasses.replace(rows, features=narrow)
    parity, _ = graph_parity(fitted_candidate(spec, rows), spec, narrow, 1e-4)
    assert parity.holds, parity


@pytest.mark.parametrize("function", ["fussy", "curious"])
def test_a_class_of_the_user_is_converted_as_what_it_inherits_from(function: str) -> None:
    candidate = CandidateSpec(function=f"tests.support.estimators:{function}")
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"], candidates=(candidate,))
    rows = mixed_rows(spec, count=150)
    parity, _ = graph_parity(fitted_candidate(spec, rows), spec, rows.features)
    assert parity.holds, parity


def _only(spec: ModelSpec, *kinds: DType) -> ModelSpec:
    return dataclasses.replace(
        spec, features=tuple(one for one in spec.features if one.dtype in kinds)
    )


@pytest.mark.parametrize(
    "kinds", [(DType.BYTES,), (DType.INT64, DType.FP64), (DType.BOOL,), (DType.FP32,)]
)
@pytest.mark.parametrize("name", ["logistic_regression", "extra_trees"])
def test_columns_of_some_types_alone_work_as_well(kinds: tuple[DType, ...], name: str) -> None:
    whole = mixed_spec(Task.BINARY, CLASSES["two texts"], candidates=(_candidate(name),))
    spec, rows = _only(whole, *kinds), mixed_rows(whole)
    rows = dataclasses.replace(rows, features=rows.features[list(spec.feature_names)])
    parity, _ = graph_parity(fitted_candidate(spec, rows), spec, mixed_frame(500, 3, wild=True))
    assert parity.holds, parity
    assert (spec.packed_input is not None) == (kinds == (DType.FP32,))


def _target(classes: tuple[int, ...]) -> Target:
    return dataclasses.replace(IRIS.target, type=DType.INT64, classes=classes)


def _tied(name: str, values: Sequence[float]) -> Any:
    """A fitted ensemble whose trees say `values` for every row, and rows for it."""
    spec = dataclasses.replace(IRIS, candidates=(CandidateSpec(name),))
    pipeline = build(expand(spec)[0], spec)
    model = pipeline.named_steps["model"]
    model.set_params(**{"max_iter" if name.startswith("hist") else "n_estimators": len(values)})
    frame = pd.DataFrame(
        np.random.default_rng(0).random((60, 4)).astype(np.float32), columns=IRIS.feature_names
    )
    pipeline.fit(frame, np.arange(60) % 2)
    for number, value in enumerate(values):
        if name == "random_forest":
            # What the second class is ahead by.
            model.estimators_[number].tree_.value[:] = [[0.5 - value / 2, 0.5 + value / 2]]
        elif name == "gradient_boosting":
            model.estimators_[number, 0].tree_.value[:] = value / model.learning_rate
        else:
            model._predictors[number][0].nodes["value"] = value
    if name == "gradient_boosting":
        model.init_ = "zero"
    elif name.startswith("hist"):
        model._baseline_prediction[:] = 0.0
    return pipeline, frame


@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting", "hist_gradient_boosting"])
def test_a_tie_between_classes_is_not_a_difference(name: str) -> None:
    """Trees that cancel in decimals, but not in floating point: the order of a sum decides."""
    rng = np.random.default_rng(3)
    spec = dataclasses.replace(IRIS, task=Task.BINARY, target=_target((0, 1)))
    for _ in range(scale(2, 4)):
        tenths = rng.integers(-4, 5, 6)
        values = (np.append(tenths, -tenths.sum()) / 40).tolist()
        pipeline, frame = _tied(name, values)
        parity, outputs = graph_parity(pipeline, spec, frame)
        assert parity.holds, parity
        assert parity.rows_tied == parity.rows == 60
        assert np.allclose(outputs["probabilities"], 0.5)


def _far_from_zero(spec: ModelSpec) -> Rows:
    """Rows whose numbers are hardly told apart in single precision."""
    rows, rng = mixed_rows(spec, count=1500), np.random.default_rng(0)
    far = rows.features.assign(
        distance=1.7e9 + rng.normal(0, 300, len(rows)),
        weight=(1e6 + rng.normal(0, 1, len(rows))).astype(np.float32),
    )
    return dataclasses.replace(rows, features=far)


@pytest.mark.parametrize("name", _kinds(CLASSIFIERS))
def test_features_far_from_zero_are_distinguished_alike(name: str) -> None:
    """A threshold between two neighbours in single precision must not be rounded up."""
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"], candidates=(_candidate(name),))
    rows = _far_from_zero(spec)
    parity, _ = graph_parity(fitted_candidate(spec, rows), spec, rows.features)
    assert parity.holds, parity


_YEARS = tuple(REGRESSORS) if LONG else ("linear_regression", "random_forest", "xgboost")


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        *((name, 1.7e9, 100.0) for name in _kinds(REGRESSORS)),
        *((name, 2008, 1.3) for name in _YEARS),
    ],
)
def test_predictions_far_from_zero_keep_their_digits(
    name: str, mean: float, deviation: float
) -> None:
    """Years and times: leaves added up in single precision would lose what they differ by."""
    spec = mixed_spec(Task.REGRESSION, candidates=(_candidate(name),))
    rows = _far_from_zero(spec)
    labels = mean + deviation * (rows.labels - rows.labels.mean()) / rows.labels.std()
    parity, _ = graph_parity(
        fitted_candidate(spec, dataclasses.replace(rows, labels=labels)), spec, rows.features
    )
    assert parity.holds, parity


@pytest.mark.parametrize("name", ["linear_regression", "decision_tree", "hist_gradient_boosting"])
def test_64_bit_numbers_are_read_with_all_their_digits(name: str) -> None:
    """Seconds since 1970 differ by less than single precision can tell."""
    grid = {"max_depth": (None,)} if name == "decision_tree" else {}
    spec = dataclasses.replace(
        mixed_spec(Task.REGRESSION, candidates=(CandidateSpec(name, grid=grid),)),
        features=(FeatureSpec("time", DType.FP64), FeatureSpec("count", DType.INT64)),
    )
    number = np.arange(1200)
    frame = pd.DataFrame({"time": 1.7e9 + number % 60, "count": 2**40 + number // 60})
    rows = Rows(frame, number % 60 + 10.0 * (number // 60), number)
    parity, outputs = graph_parity(fitted_candidate(spec, rows), spec, frame)
    assert parity.holds, parity
    assert np.std(outputs["prediction"] - rows.labels) < 2


def test_a_number_out_of_all_proportion_leaves_trees_the_others() -> None:
    spec = dataclasses.replace(
        mixed_spec(Task.REGRESSION), features=(FeatureSpec("income", DType.FP64),)
    )
    frame = pd.DataFrame({"income": np.append(np.arange(400.0), 1e300)})
    rows = Rows(frame, frame["income"].clip(upper=400).to_numpy(), np.arange(401))
    parity, outputs = graph_parity(fitted_candidate(spec, rows), spec, frame)
    assert parity.holds, parity
    assert np.std(outputs["prediction"] - rows.labels) < 5


GRIDS: list[tuple[str, str, Any]] = [
    *(("hist_gradient_boosting", "loss", one) for one in ("poisson", "gamma", "absolute_error")),
    *(("gradient_boosting", "loss", one) for one in ("huber", "quantile")),
    *((name, "fit_intercept", False) for name in ("linear_regression", "ridge")),
]


@pytest.mark.parametrize(("name", "parameter", "value"), GRIDS)
def test_regressors_with_other_parameters_are_answered_alike(
    name: str, parameter: str, value: Any
) -> None:
    candidate = _candidate(name, **{parameter: value})
    spec = mixed_spec(Task.REGRESSION, candidates=(candidate,))
    rows = mixed_rows(spec)
    rows = dataclasses.replace(rows, labels=np.exp(rows.labels / rows.labels.std()))
    parity, _ = graph_parity(fitted_candidate(spec, rows), spec, mixed_frame(_WILD, 9, wild=True))
    assert parity.holds, parity


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("gradient_boosting", "loss", "exponential"),
        ("logistic_regression", "fit_intercept", False),
        ("logistic_regression", "solver", "liblinear"),
    ],
)
def test_classifiers_with_other_parameters_are_answered_alike(
    name: str, parameter: str, value: Any
) -> None:
    candidate = _candidate(name, **{parameter: value})
    spec = mixed_spec(Task.BINARY, CLASSES["booleans"], candidates=(candidate,))
    parity, _ = graph_parity(
        fitted_candidate(spec, mixed_rows(spec)), spec, mixed_frame(_WILD, 9, wild=True)
    )
    assert parity.holds, parity


@pytest.mark.parametrize("name", _kinds(REGRESSORS))
def test_the_export_leaves_the_estimator_as_it_is(name: str) -> None:
    estimator, spec = _mixed(Task.REGRESSION, name)
    before = pickle.dumps(estimator)
    export(estimator, spec.signature(()), "mixed")
    assert pickle.dumps(estimator) == before


def test_large_terms_that_cancel_stay_within_the_tolerance() -> None:
    spec = dataclasses.replace(
        mixed_spec(Task.REGRESSION, candidates=(CandidateSpec("random_forest"),)),
        features=(FeatureSpec("x", DType.FP64),),
    )
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(800)})
    rows = Rows(frame, rng.choice([-1e9, 1e9], 800) + rng.random(800), np.arange(800))
    parity, outputs = graph_parity(fitted_candidate(spec, rows), spec, frame)
    assert parity.holds, parity
    assert np.abs(outputs["prediction"]).min() < 1e8


def test_the_inputs_are_the_features_in_their_tensor_types() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["booleans"])
    graph = export(fitted_candidate(spec, mixed_rows(spec)), spec.signature((False, True)), "mixed")
    summary = inspect_graph(graph)
    assert summary.inputs == tuple(
        TensorSpec(one.name, one.feature.tensor_dtype, (None, 1)) for one in spec.features
    )
    assert {one.name: one.dtype for one in summary.inputs}["visits"] is DType.FP64
    assert summary.outputs == (
        TensorSpec("label", DType.INT64, (None,)),
        TensorSpec("probabilities", DType.FP32, (None, 2)),
    )


def test_a_regression_answers_one_number_per_row() -> None:
    graph = _regression_graph()
    assert inspect_graph(graph).outputs == (TensorSpec("prediction", DType.FP64, (None,)),)


def test_probabilities_stand_in_the_order_that_the_model_file_gives() -> None:
    """Not in the alphabetical one of scikit-learn."""
    spec = mixed_spec(Task.MULTICLASS, ("yes", "no", "maybe"))
    rows = mixed_rows(spec)
    estimator = fitted_candidate(spec, rows)
    _, outputs = graph_parity(estimator, spec, rows.features)
    named = np.array(spec.target.classes, dtype=object)[outputs["probabilities"].argmax(axis=1)]
    assert (named == outputs["label"]).mean() > 0.95
    assert estimator.classes_.tolist() == ["maybe", "no", "yes"]


def test_the_contract_is_that_of_the_model_file_and_packed_graphs_have_one_too() -> None:
    assert graph_contract(_regression_graph()) == mixed_spec(Task.REGRESSION).contract
    packed = dataclasses.replace(IRIS, candidates=(CandidateSpec("decision_tree"),))
    frame = pd.DataFrame(
        np.random.default_rng(0).random((30, 4)).astype(np.float32), columns=IRIS.feature_names
    )
    estimator = fitted_candidate(packed, Rows(frame, np.arange(30) % 3, np.arange(30)))
    assert graph_contract(export(estimator, packed.signature((0, 1, 2)), "x")) == IRIS.contract


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"serving.feature_contract": "0" * 64}, "records the feature contract 0000"),
        ({"serving.features": "[]"}, "are not the features"),
        ({"serving.features": "{"}, "cannot be read"),
        ({"serving.features": None}, "has no serving.features"),
    ],
)
def test_a_graph_that_contradicts_itself_has_no_contract(
    change: dict[str, str | None], said: str
) -> None:
    import onnx

    model = onnx.load_model_from_string(_regression_graph())
    known: dict[str, Any] = {one.key: one.value for one in model.metadata_props} | change
    onnx.helper.set_model_props(model, {k: v for k, v in known.items() if v is not None})
    with pytest.raises(ExportError, match=said):
        graph_contract(model.SerializeToString())


def test_an_input_of_another_type_breaks_the_contract_too() -> None:
    import onnx

    spec = mixed_spec(Task.REGRESSION)
    narrow = dataclasses.replace(spec, features=(FeatureSpec("weight"), FeatureSpec("speed")))
    rows = mixed_rows(spec)
    frame = rows.features[["weight", "speed"]].fillna(0).astype(np.float32)
    estimator = fitted_candidate(narrow, dataclasses.replace(rows, features=frame))
    model = onnx.load_model_from_string(export(estimator, narrow.signature(()), "x"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    with pytest.raises(ExportError):
        graph_contract(model.SerializeToString())


def test_a_feature_cannot_be_called_as_an_output() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["booleans"])
    spec = dataclasses.replace(spec, features=(FeatureSpec("x", DType.FP64),))
    frame = pd.DataFrame({"x": np.arange(20.0)})
    estimator = fitted_candidate(spec, Rows(frame, np.arange(20) % 2, np.arange(20)))
    signature = msgspec.structs.replace(
        spec.signature((False, True)), features=(Feature("label", DType.FP64),)
    )
    with pytest.raises(ExportError, match="rename the feature"):
        export(estimator, signature, "mixed")


def test_classes_that_were_not_learned_cannot_be_promised() -> None:
    spec = mixed_spec(Task.BINARY, CLASSES["two texts"])
    estimator = fitted_candidate(spec, mixed_rows(spec))
    with pytest.raises(ExportError, match="were promised"):
        export(estimator, spec.signature(("no", "perhaps")), "mixed")


def digests_of(names: Sequence[str]) -> list[str]:
    """Train candidates on mixed rows; return the digests of their graphs."""
    digests = []
    for name in names:
        spec = mixed_spec(Task.MULTICLASS, CLASSES["texts"], candidates=(_candidate(name),))
        estimator = fitted_candidate(spec, mixed_rows(spec, count=150))
        digests.append(sha256(export(estimator, spec.signature(CLASSES["texts"]), "mixed")))
    return digests


def test_the_same_rows_and_specification_give_the_same_bytes_in_another_process() -> None:
    names = ["random_forest", "hist_gradient_boosting", "logistic_regression"]
    names += ["lightgbm", "xgboost", *(("extra_trees",) if LONG else ())]
    again = f"from tests.unit.test_export_conversion import digests_of; print(*digests_of({names}))"
    there = subprocess.run(
        [sys.executable, "-c", again],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
    )
    here = digests_of(names)
    assert there.stdout.split() == here
    assert len(set(here)) == len(names)


@pytest.mark.parametrize("kind", tree_classes(), ids=lambda kind: kind.__name__)
def test_tree_sends_a_missing_value_that_training_had_not_as_scikit_learn_does(kind: Any) -> None:
    task = Task.BINARY if is_classifier(kind()) else Task.REGRESSION
    columns = FeatureSpec("x", DType.FP32, nullable=True), FeatureSpec("y", DType.FP32)
    spec = mixed_spec(task, (0, 1) if task is Task.BINARY else (), features=columns)
    chance = np.random.default_rng(0)
    frame = pd.DataFrame(chance.normal(size=(400, 2)).astype(np.float32), columns=["x", "y"])
    labels = frame.x + frame.y
    model = make_pipeline(FunctionTransformer(), kind(random_state=0))
    fitted = custom_pipeline(model).fit(frame, labels > 0 if task is Task.BINARY else labels)

    parity, _ = graph_parity(fitted, spec, frame.assign(x=np.float32(np.nan)))

    assert parity.holds


@pytest.mark.parametrize("classes", [(0, 1), ("a", "b", "c")])
def test_boosting_that_begins_with_a_lone_leaf_is_converted(classes: tuple[Any, ...]) -> None:
    """As of few rows, or with a strong regularization."""
    task = Task.BINARY if len(classes) == 2 else Task.MULTICLASS
    spec = mixed_spec(
        task,
        classes,
        candidates=(CandidateSpec("xgboost", grid={"min_child_weight": (20,)}),),
        features=(FeatureSpec("x", DType.FP32),),
    )
    chance = np.random.default_rng(0)
    frame = pd.DataFrame({"x": chance.normal(size=70).astype(np.float32)})
    place = np.argsort(np.argsort(frame.x + chance.normal(size=70))) * len(classes) // 70
    labels = np.array(classes, dtype=object if task is Task.MULTICLASS else np.int64)[place]
    fitted = fitted_candidate(spec, Rows(frame, labels, np.arange(70)))

    parity, _ = graph_parity(fitted, spec, frame)

    assert parity.holds
